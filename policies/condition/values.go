package condition

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// strictFunction declares a connective that is evaluated on both sides and
// absorbs no error of either.
func strictFunction(name string, join func(a, b types.Bool) types.Bool) cel.EnvOption {
	return cel.Function(name, cel.Overload(name+"_bool", []*cel.Type{cel.BoolType, cel.BoolType}, cel.BoolType,
		cel.BinaryBinding(func(lhs, rhs ref.Val) ref.Val {
			a, okA := lhs.(types.Bool)
			b, okB := rhs.(types.Bool)
			if !okA || !okB {
				return types.NewErr("neither true nor false")
			}
			return join(a, b)
		})))
}

// inCIDR declares `request.ip.inCIDR("10.0.0.0/8")`: whether an address is in a
// network. An IPv4 address is in IPv4 networks alone.
func inCIDR() cel.EnvOption {
	return cel.Function("inCIDR", cel.MemberOverload("string_inCIDR_string", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType,
		cel.BinaryBinding(func(lhs, rhs ref.Val) ref.Val {
			text, okText := lhs.(types.String)
			network, okNetwork := rhs.(types.String)
			if !okText || !okNetwork {
				return types.NewErr("inCIDR takes two texts")
			}
			address, err := netip.ParseAddr(string(text))
			if err != nil {
				return types.NewErr("no address")
			}
			prefix, err := netip.ParsePrefix(string(network))
			if err != nil {
				return types.NewErr("no network")
			}
			return types.Bool(prefix.Contains(address))
		})))
}

// activation is what a condition can see. It is made anew for every evaluation.
type activation struct {
	claims map[string]any
	req    Request
}

// ResolveName implements CEL's Activation.
func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "claims":
		return a.claims, true
	case "request.time":
		return types.Timestamp{Time: a.req.Time.UTC()}, true
	case "request.ip":
		if !a.req.IP.IsValid() {
			return types.WrapErr(errNoAddress), true
		}
		return types.String(a.req.IP.Unmap().WithZone("").String()), true
	case "request.grant":
		return types.String(a.req.Grant), true
	case "request.ttl":
		return types.Duration{Duration: a.req.TTL}, true
	default:
		return nil, false
	}
}

// Parent implements CEL's Activation: there is none.
func (a *activation) Parent() cel.Activation { return nil }

// adapter turns claims into CEL values: whole numbers into int, null into an
// error (it is as good as absent), objects into object.
type adapter struct{}

var (
	errNull      = errors.New("the claim is null")
	errNoAddress = errors.New("the address of the caller is not known")
)

// exactFloat is the largest integer up to which every float64 is one integer only.
const exactFloat = 1 << 53

// Canonical turns a token's number into an int64 where it is a whole number that
// no other number rounds to, else into a float64. Everything else stays as it is.
func Canonical(value any) any {
	switch v := value.(type) {
	case int:
		return int64(v)
	case int32:
		return int64(v)
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < exactFloat {
			return int64(v)
		}
		return v
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil {
			return nil
		}
		return Canonical(f)
	default:
		return value
	}
}

// NativeToValue implements CEL's Adapter.
func (adapter) NativeToValue(value any) ref.Val {
	switch v := Canonical(value).(type) {
	case ref.Val:
		return v
	case nil:
		return types.WrapErr(errNull)
	case map[string]any:
		return object{v}
	case []any:
		return types.NewDynamicList(elements{}, v)
	case string:
		return types.String(v)
	case bool:
		return types.Bool(v)
	case int64:
		return types.Int(v)
	case float64:
		return types.Double(v)
	default:
		return types.DefaultTypeAdapter.NativeToValue(value)
	}
}

// elements is the adapter within lists: there null is a value among others,
// since the list compares its elements itself and would take an error for equal.
type elements struct{}

// NativeToValue implements CEL's Adapter.
func (elements) NativeToValue(value any) ref.Val {
	if value == nil {
		return types.NullValue
	}
	return adapter{}.NativeToValue(value)
}

// object is a nested object of a token. It can be asked for a key that it has,
// and for nothing else. It is no CEL map: its size, its keys and loops over it
// are errors, since with them absence could pass, and it equals nothing.
type object struct{ fields map[string]any }

var (
	_ traits.Indexer     = object{}
	_ traits.FieldTester = object{}

	objectType = types.NewObjectType("daypass.object") //nolint:gochecknoglobals // never changed
)

// Get implements traits.Indexer.
func (o object) Get(key ref.Val) ref.Val {
	if name, ok := key.(types.String); ok {
		if value, found := o.fields[string(name)]; found {
			return adapter{}.NativeToValue(value)
		}
	}
	return types.NewErr("no such key: %v", key.Value())
}

// IsSet implements traits.FieldTester.
func (o object) IsSet(key ref.Val) ref.Val {
	name, ok := key.(types.String)
	value, found := o.fields[string(name)]
	return types.Bool(ok && found && value != nil)
}

// Equal implements ref.Val. It is never an error: lists take one for equal.
func (o object) Equal(ref.Val) ref.Val { return types.False }

// ConvertToNative implements ref.Val.
func (o object) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("an object in a claim is no %s", t)
}

// ConvertToType implements ref.Val.
func (o object) ConvertToType(t ref.Type) ref.Val {
	if t == types.TypeType {
		return objectType
	}
	return types.NewErr("an object in a claim is no %s", t.TypeName())
}

// Type implements ref.Val.
func (o object) Type() ref.Type { return objectType }

// Value implements ref.Val.
func (o object) Value() any { return o.fields }
