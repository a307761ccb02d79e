package sidecar

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// problem is a problem document of RFC 9457.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
	members
}

func (f failure) problem() problem {
	return problem{Type: "urn:aether:problem:" + f.code, Title: f.title, Status: f.status, Detail: f.detail, Code: f.code, members: f.members}
}

// writeJSON answers with a document; its length is sent, so that a client sees
// when it was cut off.
func writeJSON(w http.ResponseWriter, status int, contentType string, document any) error {
	body, err := marshal(document)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	// Who does not read its answer has nobody else to tell.
	_, _ = w.Write(body)
	return nil
}

// marshal is json.Marshal that leaves <, > and & as they are, and ends the
// document with a line break.
func marshal(document any) ([]byte, error) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(document); err != nil {
		return nil, fmt.Errorf("write a document of JSON: %w", err)
	}
	return body.Bytes(), nil
}
