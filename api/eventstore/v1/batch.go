package eventstorev1

import "google.golang.org/protobuf/proto"

// MaxSaveBatches is how many saves there may be in one call of SaveBatches.
const MaxSaveBatches = 256

// SetDetail puts the detail of an error into the failure of a save. One of
// another type, which no save has, is left out.
func (x *SaveFailure) SetDetail(detail proto.Message) {
	switch d := detail.(type) {
	case *VersionConflict:
		x.Detail = &SaveFailure_VersionConflict{VersionConflict: d}
	case *DuplicateEvent:
		x.Detail = &SaveFailure_DuplicateEvent{DuplicateEvent: d}
	case *FieldViolation:
		x.Detail = &SaveFailure_FieldViolation{FieldViolation: d}
	case *Reason:
		x.Detail = &SaveFailure_Reason{Reason: d}
	}
}

// DetailMessage is the detail of the failure of a save, as an error would have
// it; nil where there is none.
func (x *SaveFailure) DetailMessage() proto.Message {
	switch d := x.GetDetail().(type) {
	case *SaveFailure_VersionConflict:
		return d.VersionConflict
	case *SaveFailure_DuplicateEvent:
		return d.DuplicateEvent
	case *SaveFailure_FieldViolation:
		return d.FieldViolation
	case *SaveFailure_Reason:
		return d.Reason
	}
	return nil
}
