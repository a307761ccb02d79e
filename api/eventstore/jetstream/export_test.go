package jetstream

// StreamCheck is streamCheck.
const StreamCheck = streamCheck
