package jetstream

import (
	"fmt"
	"strings"

	"git.flowmade.one/flowmade-one/aether-operator/api/eventstore"
)

// apiError is what JetStream answers to what it refuses.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

// Error is the server's own text.
func (e *apiError) Error() string {
	return fmt.Sprintf("JetStream error %d: %s", e.ErrCode, e.Description)
}

// JetStream's error codes, as far as something follows from them.
const (
	codeAccountResources  = 10002
	codeBadRequest        = 10003
	codeClusterNotAvail   = 10008
	codeClusterNotLeader  = 10009
	codeInsufficient      = 10023
	codeMemoryResources   = 10028
	codeNoMessage         = 10037
	codeStorageResources  = 10047
	codeMessageTooLarge   = 10054
	codeStreamNotFound    = 10059
	codeWrongSequence     = 10071
	codeWrongLastID       = 10070
	codeStoreFailed       = 10077
	codeHeaderTooLarge    = 10097
	codeRollupFailed      = 10111
	codeIDInProcess       = 10158
	codeSequenceNotReady  = 10163
	codeWrongSequenceAlso = 10164
	codeTooManyRequests   = 10167
	codeBatchIncomplete   = 10176
	codeBatchTooLarge     = 10199
	codeBatchDuplicate    = 10201
	codeTooManyBatches    = 10210
)

// Unwrap is the error of package eventstore that the code stands for.
func (e *apiError) Unwrap() error {
	switch e.ErrCode {
	case codeAccountResources, codeInsufficient, codeMemoryResources, codeStorageResources:
		return eventstore.ErrStoreFull
	case codeMessageTooLarge, codeHeaderTooLarge, codeBatchTooLarge:
		return eventstore.ErrTooLarge
	case codeStoreFailed:
		// One code for all reasons; the text alone tells them apart.
		if strings.Contains(e.Description, "too large") {
			return eventstore.ErrTooLarge
		}
		if strings.Contains(e.Description, "maximum") {
			return eventstore.ErrStoreFull
		}
	}
	return eventstore.ErrUnavailable
}

// passing says that the same request can succeed a little later.
func (e *apiError) passing() bool {
	switch e.ErrCode {
	case codeClusterNotAvail, codeClusterNotLeader, codeTooManyRequests, codeBatchIncomplete, codeTooManyBatches:
		return true
	}
	return false
}
