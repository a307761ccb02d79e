package webhook

import "strings"

// longNumber is from how many digits and points on a number is long, and longExponent from how
// many digits on an exponent below 0 is.
const longNumber, longExponent = 1000, 4

// costly says whether there is a number as a text of its own that is long, or has an exponent
// far below 0: what it takes to read one as a quantity grows with the square of its length, and
// with its exponent. The API server passes none on.
func costly(raw []byte) bool {
	for at := 0; at < len(raw); at++ {
		begin := at
		for at < len(raw) && (isDigit(raw[at]) || raw[at] == '.') {
			at++
		}
		if at > begin && beginsValue(raw[:begin]) && (at-begin >= longNumber || isLowExponent(raw[at:])) {
			return true
		}
	}
	return false
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// beginsValue says whether a number, or its sign, may begin behind something.
func beginsValue(before []byte) bool {
	if n := len(before); n > 0 && (before[n-1] == '+' || before[n-1] == '-') {
		before = before[:n-1]
	}
	return len(before) > 0 && isOneOf(before[len(before)-1], "\":,[\t\n\f\r ")
}

// isLowExponent says whether what comes behind the digits of a number is such an exponent, and
// then its end.
func isLowExponent(rest []byte) bool {
	if len(rest) < 2 || rest[0] != 'e' && rest[0] != 'E' || rest[1] != '-' {
		return false
	}
	at := 2
	for at < len(rest) && isDigit(rest[at]) {
		at++
	}
	return at-2 >= longExponent && at < len(rest) && isOneOf(rest[at], "\",}]\t\n\f\r ")
}

func isOneOf(c byte, chars string) bool { return strings.IndexByte(chars, c) >= 0 }
