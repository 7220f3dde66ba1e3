//go:build ignore

// Requests at a fixed rate, open loop: each has a time at which it is due, whatever became of those
// before, and its latency counts from then (no coordinated omission). Arrivals are Poisson from a
// seed, so every proxy meets the same ones. One thread, epoll and a timerfd: Go's own timers round
// up to a millisecond, which is what is to be measured here.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/rand"
	"net"
	"runtime"
	"runtime/debug"
	"sort"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

const head = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" +
	"Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-GB,en;q=0.7,de;q=0.3\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0\r\n" +
	"Cache-Control: no-cache\r\nReferer: https://www.example.com/start\r\n"

type connection struct {
	descriptor int
	due        time.Duration // of the request on its way
	got        []byte
	want       int // bytes of the whole response, 0 while its head is not complete
}

type generator struct {
	began     time.Time
	warm      time.Duration
	idle      []*connection
	waiting   []time.Duration // requests that are due and find no idle connection
	sent      int
	latencies []time.Duration
	late      []time.Duration // by how much sending missed the due time: our own fault
	failures  int
}

func (g *generator) send(c *connection, due time.Duration) {
	g.sent++
	request := fmt.Sprintf("GET /api/items?page=%d HTTP/1.1\r\nHost: www.example.com\r\n%s"+
		"Cookie: session=%032x; theme=dark; consent=1\r\nX-Trace-Id: %032x\r\n\r\n",
		g.sent, head, g.sent*2654435761, g.sent*40503)
	c.due, c.got, c.want = due, c.got[:0], 0
	if n, err := syscall.Write(c.descriptor, []byte(request)); err != nil || n != len(request) {
		g.failures++
	}
}

// The bytes of a whole response, or 0 while its head is not complete.
func size(got []byte) int {
	end := bytes.Index(got, []byte("\r\n\r\n"))
	if end < 0 {
		return 0
	}
	at := bytes.Index(bytes.ToLower(got[:end]), []byte("\r\ncontent-length:"))
	if at < 0 {
		log.Fatalf("a response without Content-Length: %q", got[:end])
	}
	value, _, _ := bytes.Cut(got[at+17:end+2], []byte("\r\n"))
	length, err := strconv.Atoi(string(bytes.TrimSpace(value)))
	if err != nil {
		log.Fatal(err)
	}
	return end + 4 + length
}

func (g *generator) receive(c *connection, buffer []byte) {
	n, err := syscall.Read(c.descriptor, buffer)
	if n <= 0 {
		log.Fatalf("the proxy closed a connection: %v", err)
	}
	c.got = append(c.got, buffer[:n]...)
	if c.want == 0 {
		c.want = size(c.got)
	}
	if c.want == 0 || len(c.got) < c.want {
		return
	}
	if !bytes.HasPrefix(c.got, []byte("HTTP/1.1 200")) {
		g.failures++
	}
	if c.due >= g.warm {
		g.latencies = append(g.latencies, time.Since(g.began)-c.due)
	}
	if len(g.waiting) > 0 {
		due := g.waiting[0]
		g.waiting = g.waiting[1:]
		g.send(c, due)
	} else {
		g.idle = append(g.idle, c)
	}
}

func connect(address string, poll int) *connection {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		log.Fatal(err)
	}
	number, _ := strconv.Atoi(port)
	target := syscall.SockaddrInet4{Port: number}
	copy(target.Addr[:], net.ParseIP(host).To4())
	descriptor, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err == nil {
		err = syscall.Connect(descriptor, &target)
	}
	if err != nil {
		log.Fatal(err)
	}
	syscall.SetsockoptInt(descriptor, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	watch(poll, descriptor)
	return &connection{descriptor: descriptor}
}

func watch(poll, descriptor int) {
	event := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(descriptor)}
	if err := syscall.EpollCtl(poll, syscall.EPOLL_CTL_ADD, descriptor, &event); err != nil {
		log.Fatal(err)
	}
}

func arm(timer int, wait time.Duration) {
	if wait < time.Microsecond {
		wait = time.Microsecond
	}
	setting := [4]int64{0, 0, int64(wait / time.Second), int64(wait % time.Second)}
	syscall.RawSyscall6(syscall.SYS_TIMERFD_SETTIME, uintptr(timer), 0,
		uintptr(unsafe.Pointer(&setting)), 0, 0, 0)
}

func (g *generator) run(address string, connections int, rate float64, length time.Duration, seed int64) {
	poll, err := syscall.EpollCreate1(0)
	if err != nil {
		log.Fatal(err)
	}
	timer, _, failed := syscall.RawSyscall(syscall.SYS_TIMERFD_CREATE, 1 /* monotonic */, 0, 0)
	if failed != 0 {
		log.Fatal(failed)
	}
	watch(poll, int(timer))
	byDescriptor := map[int32]*connection{}
	for i := 0; i < connections; i++ {
		c := connect(address, poll)
		byDescriptor[int32(c.descriptor)] = c
		g.idle = append(g.idle, c)
	}
	chance := rand.New(rand.NewSource(seed))
	events := make([]syscall.EpollEvent, 256)
	buffer := make([]byte, 64<<10)
	g.began = time.Now()
	var due time.Duration
	for due < length || len(g.idle) < connections {
		now := time.Since(g.began)
		for due <= now && due < length {
			if due >= g.warm {
				g.late = append(g.late, now-due)
			}
			if last := len(g.idle) - 1; last >= 0 {
				c := g.idle[0] // the longest idle one, so that all are used
				copy(g.idle, g.idle[1:])
				g.idle = g.idle[:last]
				g.send(c, due)
			} else {
				g.waiting = append(g.waiting, due)
			}
			due += time.Duration(chance.ExpFloat64() / rate * 1e9)
			now = time.Since(g.began)
		}
		if now > length+10*time.Second {
			g.failures += connections - len(g.idle) + len(g.waiting)
			break
		}
		if due < length {
			arm(int(timer), due-now)
		} else {
			arm(int(timer), time.Second)
		}
		count, err := syscall.EpollWait(poll, events, -1)
		if err != nil && err != syscall.EINTR {
			log.Fatal(err)
		}
		for _, event := range events[:max(count, 0)] {
			if c, ok := byDescriptor[event.Fd]; ok {
				g.receive(c, buffer)
			} else {
				syscall.Read(int(timer), buffer[:8])
			}
		}
	}
}

func max(a, b int) int {
	if a > b {
		return a
	}
	return b
}

func percentile(values []time.Duration, share float64) float64 {
	if len(values) == 0 {
		return -1
	}
	return float64(values[int(share*float64(len(values)-1))].Nanoseconds()) / 1000
}

func main() {
	address := flag.String("address", "127.0.0.1:2000", "where the proxy listens")
	connections := flag.Int("connections", 64, "kept connections")
	rate := flag.Float64("rate", 2000, "requests per second")
	length := flag.Duration("duration", 5*time.Second, "how long, the warming up included")
	warm := flag.Duration("warm", time.Second, "the beginning that does not count")
	seed := flag.Int64("seed", 1, "of the arrivals")
	flag.Parse()
	debug.SetGCPercent(-1) // no pause of ours may be taken for the proxy's
	runtime.LockOSThread()

	g := &generator{warm: *warm}
	g.run(*address, *connections, *rate, *length, *seed)
	for _, values := range [][]time.Duration{g.latencies, g.late} {
		sort.Slice(values, func(a, b int) bool { return values[a] < values[b] })
	}
	result, _ := json.Marshal(map[string]float64{
		"requests": float64(len(g.latencies)), "failures": float64(g.failures),
		"p50": percentile(g.latencies, 0.5), "p99": percentile(g.latencies, 0.99),
		"p999": percentile(g.latencies, 0.999), "late99": percentile(g.late, 0.99),
	})
	fmt.Printf("result %s\n", result)
}
