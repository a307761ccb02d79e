package main

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// simulated answers the requests about streams as JetStream does, from memory: ten
// thousand stores are twenty thousand streams, and this machine is to be busy with
// the operator.
type simulated struct {
	server   *server.Server
	nc       *nats.Conn
	requests atomic.Uint64

	mu      sync.Mutex
	streams map[string]*jetstream.StreamInfo
	// names are in order, as a listing is.
	names []string
}

func startSimulated() (*simulated, error) {
	s := &simulated{streams: map[string]*jetstream.StreamInfo{}}
	var err error
	if s.server, err = server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true}); err != nil {
		return nil, err
	}
	s.server.Start()
	if s.nc, err = nats.Connect(s.server.ClientURL()); err != nil {
		return nil, err
	}
	_, err = s.nc.Subscribe("$JS.API.>", s.answer)
	return s, err
}

func (s *simulated) stop() {
	s.nc.Close()
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

func (s *simulated) answer(msg *nats.Msg) {
	s.requests.Add(1)
	tokens := strings.Split(msg.Subject, ".")
	operation, name := tokens[len(tokens)-2], tokens[len(tokens)-1]
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case name == "INFO":
		s.respond(msg, map[string]any{"api": map[string]int{"level": 5}})
	case name == "LIST":
		s.respond(msg, s.page(msg.Data))
	case operation == "CREATE":
		s.respond(msg, s.create(name, msg.Data))
	case s.streams[name] == nil:
		s.respond(msg, map[string]any{"error": map[string]any{"code": 404, "err_code": 10059, "description": "stream not found"}})
	case operation == "UPDATE":
		s.respond(msg, s.update(name, msg.Data))
	default:
		s.respond(msg, s.streams[name])
	}
}

// pageSize is that of nats-server.
const pageSize = 256

func (s *simulated) page(request []byte) any {
	var from struct {
		Offset int `json:"offset"`
	}
	_ = json.Unmarshal(request, &from)
	var streams []*jetstream.StreamInfo
	for _, name := range s.names[min(from.Offset, len(s.names)):min(from.Offset+pageSize, len(s.names))] {
		streams = append(streams, s.streams[name])
	}
	return map[string]any{"total": len(s.names), "offset": from.Offset, "limit": pageSize, "streams": streams}
}

func (s *simulated) create(name string, request []byte) any {
	info := &jetstream.StreamInfo{Created: time.Now().UTC()}
	_ = json.Unmarshal(request, &info.Config)
	s.streams[name] = info
	at, _ := slices.BinarySearch(s.names, name)
	s.names = slices.Insert(s.names, at, name)
	s.tell("CREATED", name)
	return info
}

func (s *simulated) update(name string, request []byte) any {
	var config jetstream.StreamConfig
	_ = json.Unmarshal(request, &config)
	s.streams[name].Config = config
	s.tell("UPDATED", name)
	return s.streams[name]
}

func (s *simulated) tell(what, name string) {
	_ = s.nc.Publish("$JS.EVENT.ADVISORY.STREAM."+what+"."+name, nil)
}

func (s *simulated) respond(msg *nats.Msg, answer any) {
	encoded, err := json.Marshal(answer)
	if err != nil {
		// Plain data: only a mistake in the code can fail here.
		panic(err)
	}
	_ = msg.Respond(encoded)
}
