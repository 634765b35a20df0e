package outbound_test

import (
	"net/netip"
	"testing"

	"github.com/daypass/daypass/broker/outbound"
)

func TestReach(t *testing.T) {
	public := outbound.Reach{}
	private := outbound.Reach{Private: true}
	loopback := outbound.Reach{Loopback: true}
	for _, test := range []struct {
		ip                        string
		public, private, loopback bool
	}{
		{"140.82.112.3", true, true, true},
		{"2606:50c0:8000::153", true, true, true},
		{"127.0.0.1", false, true, true},
		{"127.8.8.8", false, true, true},
		{"::1", false, true, true},
		{"::ffff:127.0.0.1", false, true, true},
		{"10.1.2.3", false, true, false},
		{"172.16.0.1", false, true, false},
		{"192.168.0.1", false, true, false},
		{"::ffff:10.0.0.1", false, true, false},
		{"fd00::1", false, true, false},
		{"100.64.0.1", false, true, false},
		{"169.254.169.254", false, false, false},
		{"::ffff:169.254.169.254", false, false, false},
		{"64:ff9b::a9fe:a9fe", false, false, false},
		{"2002:a9fe:a9fe::", false, false, false},
		{"::7f00:1", false, false, false},
		{"fe80::1", false, false, false},
		{"fe80::1%eth0", false, false, false},
		{"0.0.0.0", false, false, false},
		{"0.1.2.3", false, false, false},
		{"::", false, false, false},
		{"224.0.0.1", false, false, false},
		{"ff02::1", false, false, false},
		{"255.255.255.255", false, false, false},
		{"240.0.0.1", false, false, false},
	} {
		address := netip.AddrPortFrom(netip.MustParseAddr(test.ip), 443).String()
		for _, way := range []struct {
			may  outbound.Reach
			want bool
		}{{public, test.public}, {private, test.private}, {loopback, test.loopback}} {
			if got := way.may.Check(address) == nil; got != way.want {
				t.Errorf("%s with %+v: %v, want %v", test.ip, way.may, got, way.want)
			}
		}
	}
	if public.Check("nonsense") == nil {
		t.Error("an address that can't be read was allowed")
	}
}
