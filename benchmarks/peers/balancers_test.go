//go:build ignore

// The balancers of a typical Go gateway: a mutex around the balancer's state, and each endpoint asked
// whether it is alive. Liveness is an atomic here, which is faster than the lock that many use.
package main

import (
	"fmt"
	"hash/crc32"
	"math/rand"
	"sort"
	"sync"
	"sync/atomic"
	"testing"
)

type endpoint struct {
	address     string
	alive       int32
	weight      int
	current     int
	connections int64
}

func (e *endpoint) isAlive() bool { return atomic.LoadInt32(&e.alive) == 1 }

func members(count int) []*endpoint {
	found := make([]*endpoint, count)
	for i := range found {
		found[i] = &endpoint{address: fmt.Sprintf("10.0.%d.%d:8080", i/250, i%250), alive: 1, weight: 1 + i%3}
	}
	return found
}

type roundRobin struct {
	mutex     sync.Mutex
	endpoints []*endpoint
	turn      int
}

func (b *roundRobin) pick() *endpoint {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	for range b.endpoints {
		b.turn = (b.turn + 1) % len(b.endpoints)
		if e := b.endpoints[b.turn]; e.isAlive() {
			return e
		}
	}
	return nil
}

// Smooth weighted round robin, as nginx has it.
type weighted struct {
	mutex     sync.Mutex
	endpoints []*endpoint
}

func (b *weighted) pick() *endpoint {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	var best *endpoint
	total := 0
	for _, e := range b.endpoints {
		if !e.isAlive() {
			continue
		}
		e.current += e.weight
		total += e.weight
		if best == nil || e.current > best.current {
			best = e
		}
	}
	if best != nil {
		best.current -= total
	}
	return best
}

type random struct {
	mutex     sync.RWMutex
	endpoints []*endpoint
}

func (b *random) pick() *endpoint {
	b.mutex.RLock()
	defer b.mutex.RUnlock()
	start := rand.Intn(len(b.endpoints))
	for i := range b.endpoints {
		if e := b.endpoints[(start+i)%len(b.endpoints)]; e.isAlive() {
			return e
		}
	}
	return nil
}

type powerOfTwo struct {
	mutex     sync.RWMutex
	endpoints []*endpoint
}

func (b *powerOfTwo) pick() *endpoint {
	b.mutex.RLock()
	defer b.mutex.RUnlock()
	one, two := b.endpoints[rand.Intn(len(b.endpoints))], b.endpoints[rand.Intn(len(b.endpoints))]
	if !one.isAlive() || two.isAlive() &&
		atomic.LoadInt64(&two.connections) < atomic.LoadInt64(&one.connections) {
		one = two
	}
	atomic.AddInt64(&one.connections, 1)
	return one
}

type leastConnections struct {
	mutex     sync.Mutex
	endpoints []*endpoint
}

func (b *leastConnections) pick() *endpoint {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	var best *endpoint
	for _, e := range b.endpoints {
		if e.isAlive() && (best == nil ||
			atomic.LoadInt64(&e.connections) < atomic.LoadInt64(&best.connections)) {
			best = e
		}
	}
	if best != nil {
		atomic.AddInt64(&best.connections, 1)
	}
	return best
}

type consistentHash struct {
	mutex  sync.RWMutex
	points []uint32
	owners map[uint32]*endpoint
}

func newConsistentHash(endpoints []*endpoint) *consistentHash {
	b := &consistentHash{owners: map[uint32]*endpoint{}}
	for _, e := range endpoints {
		for i := 0; i < 100; i++ {
			point := crc32.ChecksumIEEE([]byte(fmt.Sprintf("%s#%d", e.address, i)))
			b.points = append(b.points, point)
			b.owners[point] = e
		}
	}
	sort.Slice(b.points, func(i, j int) bool { return b.points[i] < b.points[j] })
	return b
}

func (b *consistentHash) pick(key string) *endpoint {
	b.mutex.RLock()
	defer b.mutex.RUnlock()
	hash := crc32.ChecksumIEEE([]byte(key))
	at := sort.Search(len(b.points), func(i int) bool { return b.points[i] >= hash })
	for i := 0; i < len(b.points); i++ {
		if e := b.owners[b.points[(at+i)%len(b.points)]]; e.isAlive() {
			return e
		}
	}
	return nil
}

var found *endpoint // kept, so that the compiler leaves nothing out

func BenchmarkPick(b *testing.B) {
	for _, count := range []int{3, 100} {
		count := count
		run := func(name string, pick func() *endpoint) {
			b.Run(fmt.Sprintf("%s/%d", name, count), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; i < b.N; i++ {
					found = pick()
				}
			})
		}
		run("round_robin", (&roundRobin{endpoints: members(count)}).pick)
		run("weighted_round_robin", (&weighted{endpoints: members(count)}).pick)
		run("random", (&random{endpoints: members(count)}).pick)
		two := &powerOfTwo{endpoints: members(count)}
		run("power_of_two", func() *endpoint {
			e := two.pick()
			atomic.AddInt64(&e.connections, -1)
			return e
		})
		least := &leastConnections{endpoints: members(count)}
		run("least_connections", func() *endpoint {
			e := least.pick()
			atomic.AddInt64(&e.connections, -1)
			return e
		})
		hash := newConsistentHash(members(count))
		keys := make([]string, 1024)
		for i := range keys {
			keys[i] = fmt.Sprintf("10.%d.%d.7", i/250, i%250)
		}
		turn := 0
		run("consistent_hash", func() *endpoint {
			turn++
			return hash.pick(keys[turn&1023])
		})
	}
}
