package openport

import "net/netip"

// Peer is who is at the other end of a connection, as far as things are shared.
type Peer struct {
	// Network is the address, and of IPv6 the /64 that a single host may have.
	Network string
	// Address is the address itself: the pods of a node, and it too, may be in one /64.
	Address string
}

// PeerOf is who is at an address with a port. What is no such address is a peer by itself.
func PeerOf(address string) Peer {
	parsed, err := netip.ParseAddrPort(address)
	if err != nil {
		return Peer{address, address}
	}
	ip := parsed.Addr().Unmap().WithZone("")
	network := netip.PrefixFrom(ip, 64).Masked()
	if ip.Is4() {
		return Peer{ip.String(), ip.String()}
	}
	return Peer{network.String(), ip.String()}
}
