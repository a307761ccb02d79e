package eventstorev1

import (
	_ "embed"
)

// Source is the protobuf contract as it was written, with its comments.
//
//go:embed eventstore.proto
var Source []byte
