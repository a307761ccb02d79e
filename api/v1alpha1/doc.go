// Package v1alpha1 is the Kubernetes API of Aether: EventStore, what a team
// asks for, and EventStoreClass, what the platform offers. Every condition,
// reason, label, annotation and finalizer is a documented constant here.
//
// +kubebuilder:object:generate=true
// +groupName=aether.flowmade.one
package v1alpha1
