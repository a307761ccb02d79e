// Package controller reconciles EventStores and EventStoreClasses: what package
// stream decides is carried out here, and told in conditions and Events.
package controller
