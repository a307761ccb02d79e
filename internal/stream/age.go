package stream

import (
	"fmt"
	"math"
	"strings"
	"time"
)

const (
	day  = 24 * time.Hour
	week = 7 * day
	year = 365 * day
)

var ageUnits = map[byte]time.Duration{
	's': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': day, 'w': week, 'y': year,
}

// ParseMaxAge reads an age such as "365d" or "1d12h": whole numbers with the
// units s, m, h, d, w (7 days) and y (365 days). "0" is for ever, and given as 0.
// Any other spelling of zero is an error, since it could be meant as "at once".
func ParseMaxAge(s string) (time.Duration, error) {
	if s == "0" {
		return 0, nil
	}
	if s == "" {
		return 0, fmt.Errorf(`retention.maxAge is empty: write a duration such as "365d", or "0" to keep events for ever`)
	}
	age, err := parseDuration("retention.maxAge", s)
	if err == nil && age == 0 {
		err = fmt.Errorf(`retention.maxAge %q is zero: write "0" to keep events for ever, or a duration of at least "1s"`, s)
	}
	return age, err
}

// parseDuration reads whole numbers with units; what is empty is 0.
func parseDuration(field, s string) (time.Duration, error) {
	var total time.Duration
	for rest := s; rest != ""; {
		value, after, err := ageTerm(field, s, rest)
		if err != nil {
			return 0, err
		}
		if total > math.MaxInt64-value {
			return 0, tooLong(field, s)
		}
		total, rest = total+value, after
	}
	return total, nil
}

// ageTerm reads the first number and unit of rest.
func ageTerm(field, s, rest string) (time.Duration, string, error) {
	digits := 0
	for digits < len(rest) && rest[digits] >= '0' && rest[digits] <= '9' {
		digits++
	}
	if digits == 0 || digits == len(rest) {
		return 0, "", fmt.Errorf(`%s %q is no duration: write numbers with the units s, m, h, d, w or y, such as "365d" or "1d12h"`, field, s)
	}
	unit, known := ageUnits[rest[digits]]
	if !known {
		return 0, "", fmt.Errorf(`%s %q has the unknown unit %q: the units are s, m, h, d, w and y`, field, s, rest[digits])
	}
	var number int64
	for _, digit := range []byte(rest[:digits]) {
		number = number*10 + int64(digit-'0')
		if number > math.MaxInt64/int64(unit) {
			return 0, "", tooLong(field, s)
		}
	}
	return time.Duration(number) * unit, rest[digits+1:], nil
}

// tooLong: JetStream counts an age in nanoseconds in 64 bits.
func tooLong(field, s string) error {
	return fmt.Errorf(`%s %q is longer than JetStream can count, which is 292 years: write less, or "0" to keep events for ever`, field, s)
}

// FormatAge writes an age as ParseMaxAge reads it, in the largest units that
// give it exactly; what is below a second, which no spec can ask for, as Go
// writes it.
func FormatAge(age time.Duration) string {
	if age == 0 {
		return "0"
	}
	if age < 0 || age%time.Second != 0 {
		return age.String()
	}
	var b strings.Builder
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{day, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}} {
		if n := age / unit.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, unit.name)
			age %= unit.size
		}
	}
	return b.String()
}
