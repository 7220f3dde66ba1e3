//go:build ignore

// A reverse proxy of Go's standard library, as most Go gateways begin: httputil.ReverseProxy with a
// round robin in its Director and a Transport that keeps enough idle connections for the load.
package main

import (
	"flag"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:2000", "address to serve on")
	table := flag.String("endpoints", "", "file with an endpoint's host:port on each line")
	sink := flag.String("sink", "", "host:port for paths below /sink/")
	flag.Parse()

	content, err := os.ReadFile(*table)
	if err != nil {
		log.Fatal(err)
	}
	endpoints := strings.Fields(string(content))
	var turn uint64

	proxy := &httputil.ReverseProxy{
		Director: func(request *http.Request) {
			request.URL.Scheme = "http"
			if strings.HasPrefix(request.URL.Path, "/sink/") {
				request.URL.Host = *sink
				return
			}
			number := atomic.AddUint64(&turn, 1)
			request.URL.Host = endpoints[number%uint64(len(endpoints))]
		},
		Transport: &http.Transport{
			MaxIdleConns:        0, // any number
			MaxIdleConnsPerHost: 20000,
			IdleConnTimeout:     time.Hour,
			DisableCompression:  true,
			WriteBufferSize:     64 << 10,
			ReadBufferSize:      64 << 10,
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	log.Fatal((&http.Server{Addr: *listen, Handler: proxy}).ListenAndServe())
}
