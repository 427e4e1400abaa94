// A server on Go's net/http: each client has a goroutine and a bounded channel, as in the usual
// chat server.
package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

var mutex sync.Mutex
var clients = map[chan []byte]bool{}

func stream(response http.ResponseWriter, request *http.Request) {
	response.Header().Set("Content-Type", "text/event-stream")
	response.Header().Set("Cache-Control", "no-cache")
	response.(http.Flusher).Flush()
	events := make(chan []byte, 256)
	mutex.Lock()
	clients[events] = true
	mutex.Unlock()
	for {
		select {
		case event := <-events:
			response.Write(event)
			response.(http.Flusher).Flush()
		case <-request.Context().Done():
			mutex.Lock()
			delete(clients, events)
			mutex.Unlock()
			return
		}
	}
}

func publish(number int, size int) {
	frame := fmt.Sprintf("id: %d\ndata: %d %d ", number, number, time.Now().UnixNano())
	if padding := size - len(frame) - 3; padding > 0 {
		frame += strings.Repeat("x", padding)
	}
	event := []byte(frame + "~\n\n")
	mutex.Lock()
	for client := range clients {
		select {
		case client <- event:
		default: // a client misses this event if its channel is full
		}
	}
	mutex.Unlock()
}

func tick(orders chan [2]int) {
	rate, size, issued, number, since := 0, 0, 0, 0, time.Now()
	for {
		pause := time.Hour
		if rate > 0 {
			due := int(time.Since(since).Seconds() * float64(rate))
			for ; issued < due; issued++ {
				number++
				publish(number, size)
			}
			next := time.Duration(float64(issued+1) / float64(rate) * float64(time.Second))
			pause = next - time.Since(since)
			if pause < time.Millisecond {
				pause = time.Millisecond
			}
		}
		select {
		case order := <-orders:
			rate, size, issued, since = order[0], order[1], 0, time.Now()
		case <-time.After(pause):
		}
	}
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // TCP_NODELAY is Go's default
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr())
	orders := make(chan [2]int)
	go tick(orders)
	http.HandleFunc("/bench", stream)
	go http.Serve(listener, nil)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var order [2]int
		fmt.Sscan(lines.Text(), &order[0], &order[1])
		orders <- order
	}
}
