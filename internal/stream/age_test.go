package stream_test

import (
	"strings"
	"testing"
	"time"

	"git.flowmade.one/flowmade-one/aether-operator/internal/stream"
)

const day = 24 * time.Hour

func TestParseMaxAge(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"0":            0,
		"1s":           time.Second,
		"90m":          90 * time.Minute,
		"365d":         365 * day,
		"1d12h":        36 * time.Hour,
		"2w":           14 * day,
		"1y":           365 * day,
		"1y1w1d1h1m1s": 365*day + 7*day + day + time.Hour + time.Minute + time.Second,
		"0d12h":        12 * time.Hour,
		"290y":         290 * 365 * day,
		"1d1d":         2 * day,
	} {
		if got, err := stream.ParseMaxAge(text); err != nil || got != want {
			t.Errorf("ParseMaxAge(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":                       "is empty",
		"0s":                     `is zero: write "0"`,
		"0d0h":                   `is zero: write "0"`,
		"30":                     "is no duration",
		"d":                      "is no duration",
		"-1d":                    "is no duration",
		"1d ":                    "is no duration",
		"1x":                     "unknown unit",
		"1D":                     "unknown unit",
		"293y":                   "longer than JetStream can count",
		"292y52w5d":              "longer than JetStream can count",
		"99999999999999999999s":  "longer than JetStream can count",
		"999999999y":             "longer than JetStream can count",
		"9223372036s9223372036s": "longer than JetStream can count",
	} {
		if got, err := stream.ParseMaxAge(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseMaxAge(%q) = %v, %v, want an error that says %q", text, got, err, want)
		}
	}
}

func TestFormatAge(t *testing.T) {
	t.Parallel()
	for age, want := range map[time.Duration]string{
		0:                                    "0",
		time.Second:                          "1s",
		365 * day:                            "365d",
		36 * time.Hour:                       "1d12h",
		day + 2*time.Minute:                  "1d2m",
		1500 * time.Millisecond:              "1.5s",
		day + time.Hour + 61*time.Second:     "1d1h1m1s",
		time.Duration(1<<63-1) / 1e9 * 1e9:   "106751d23h47m16s",
		-time.Second:                         "-1s",
		2*time.Minute + 100*time.Millisecond: "2m0.1s",
	} {
		if got := stream.FormatAge(age); got != want {
			t.Errorf("FormatAge(%v) = %q, want %q", age, got, want)
		}
	}
}

func FuzzParseMaxAge(f *testing.F) {
	for _, seed := range []string{"0", "365d", "1d12h", "0s", "292y9999999999999s", "x", "1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		age, err := stream.ParseMaxAge(text)
		if err != nil {
			return
		}
		if age < 0 || age == 0 && text != "0" {
			t.Fatalf("ParseMaxAge(%q) = %v", text, age)
		}
		if again, err := stream.ParseMaxAge(stream.FormatAge(age)); err != nil || again != age {
			t.Fatalf("%q is %v, which is written %q and read as %v, %v", text, age, stream.FormatAge(age), again, err)
		}
	})
}
