// Package stream turns an EventStore into JetStream streams: what they should
// be, whose they are, what was lost, and the plan that leads from what is there
// to what is asked for. Those decisions are pure functions. Conn and Connections
// are the edge, and the only code of the control plane that speaks JetStream.
package stream
