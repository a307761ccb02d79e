// Package group decides for durable subscriptions: which event goes to which
// member, and what must be stored before it may. It does nothing else. A Machine
// is what the coordinator of a group knows, a Member what one of its members
// does; a store carries messages between them, and writes and reads records.
//
// Nothing is handed out before a record says so, and nothing is answered before
// a record has it. So two coordinators at once do no harm: the write of the
// earlier one is refused, and it hands out nothing more.
package group
