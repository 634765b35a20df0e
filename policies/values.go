package policies

import (
	"errors"
	"fmt"
	"reflect"
	"time"

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

// activation is what a condition can see. It is made anew for every evaluation.
type activation struct {
	claims map[string]any
	req    Request
	now    time.Time
}

// ResolveName implements CEL's Activation.
func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "claims":
		return a.claims, true
	case "request.time":
		return types.Timestamp{Time: a.now.UTC()}, true
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

var errNull = errors.New("the claim is null")

// NativeToValue implements CEL's Adapter.
func (adapter) NativeToValue(value any) ref.Val {
	switch v := canonical(value).(type) {
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
