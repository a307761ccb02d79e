package sidecar

import (
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// lineTypes are the names that lines of JSON have; none of them is registered.
var lineTypes = []string{"application/x-ndjson", "application/ndjson", "application/jsonl"}

// asLines is the media type of lines of JSON in which a request wants its answer, and
// empty where it wants a document, or names none of them.
func asLines(r *http.Request) string {
	best, weight := "", quality(r, "application/json")
	for _, name := range lineTypes {
		if q := quality(r, name); q > 0 && (q > weight || best == "" && q == weight) {
			best, weight = name, q
		}
	}
	return best
}

// accepts says whether the Accept header of a request lists a media type, or one that
// stands for it; all are where there is none.
func accepts(r *http.Request, mediaType string) bool {
	if strings.TrimSpace(strings.Join(r.Header.Values("Accept"), ",")) == "" {
		return true
	}
	kind, _, _ := strings.Cut(mediaType, "/")
	for _, name := range []string{mediaType, kind + "/*", "*/*"} {
		// The one that says most counts, also where it refuses.
		if q, listed := weightOf(r, name); listed {
			return q > 0
		}
	}
	return false
}

// quality is the weight of a media type in the Accept header of a request, from 0 to
// 1, and 0 where it is not listed itself (RFC 9110, section 12.5.1).
func quality(r *http.Request, mediaType string) float64 {
	q, _ := weightOf(r, mediaType)
	return q
}

func weightOf(r *http.Request, mediaType string) (q float64, listed bool) {
	for _, accepted := range strings.Split(strings.Join(r.Header.Values("Accept"), ","), ",") {
		name, parameters, err := mime.ParseMediaType(accepted)
		if err != nil || name != mediaType {
			continue
		}
		if q, err := strconv.ParseFloat(parameters["q"], 64); err == nil {
			return q, true
		}
		return 1, true
	}
	return 0, false
}
