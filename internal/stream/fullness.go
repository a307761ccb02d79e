package stream

import (
	"fmt"
	"math"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// fullFrom is the part of maxBytes, in percent, from which a stream is told as
	// full, and fullTo the part below which it is not any more: a stream at the edge is
	// not to be told each time that it crosses it.
	fullFrom = 80
	fullTo   = 75
)

// Fullness is how much of its maxBytes a stream has taken, in percent, and whether
// that is told; was says that it was told before. Without maxBytes it is 0.
func Fullness(live *jetstream.StreamInfo, was bool) (percent int, full bool) {
	if live.Config.MaxBytes <= 0 {
		return 0, false
	}
	percent = int(float64(live.State.Bytes) / float64(live.Config.MaxBytes) * 100)
	return percent, percent >= fullFrom || was && percent >= fullTo
}

// SizeText tells what a stream takes, and may take, for a person.
func SizeText(bytes, maxBytes int64) string {
	if maxBytes <= 0 {
		return FormatBytes(bytes)
	}
	return FormatBytes(bytes) + " of " + FormatBytes(maxBytes)
}

// FormatBytes writes a number of bytes with three digits or so and a unit that
// Kubernetes knows.
func FormatBytes(bytes int64) string {
	const units = "KMGTPE"
	value, unit := float64(bytes), -1
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	if unit < 0 {
		return strconv.FormatInt(bytes, 10)
	}
	if rounded := math.Round(value*10) / 10; value < 100 && rounded != math.Trunc(rounded) {
		return fmt.Sprintf("%.1f%ci", rounded, units[unit])
	}
	return fmt.Sprintf("%.0f%ci", value, units[unit])
}
