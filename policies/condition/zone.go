package condition

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/overloads"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// zones are the time zones that conditions name. CEL by itself reads a zone from
// disk whenever it is asked for an hour in it, which costs more than everything
// else in a decision. Names are literals of policies, so there are few.
type zones struct{ known sync.Map }

func (z *zones) load(name string) (*time.Location, error) {
	if found, ok := z.known.Load(name); ok {
		if location, isLocation := found.(*time.Location); isLocation {
			return location, nil
		}
	}
	location, err := parseZone(name)
	if err != nil {
		return nil, err
	}
	z.known.Store(name, location)
	return location, nil
}

// parseZone reads a name of the IANA database, or an offset such as +05:30.
func parseZone(name string) (*time.Location, error) {
	if strings.HasPrefix(name, "+") || strings.HasPrefix(name, "-") {
		offset, err := time.Parse("-07:00", name)
		if err != nil {
			return nil, fmt.Errorf("reading offset: %w", err)
		}
		return offset.Location(), nil
	}
	location, err := time.LoadLocation(name)
	if err != nil || name == "Local" || name == "" {
		return nil, fmt.Errorf("unknown time zone %q", name)
	}
	return location, nil
}

// accessors replaces CEL's own functions of a timestamp and a zone, one for one.
func (z *zones) accessors() []cel.EnvOption {
	var list []cel.EnvOption
	for _, a := range []struct {
		function, overload string
		get                func(time.Time) int
	}{
		{overloads.TimeGetFullYear, overloads.TimestampToYearWithTz, time.Time.Year},
		{overloads.TimeGetMonth, overloads.TimestampToMonthWithTz, func(t time.Time) int { return int(t.Month()) - 1 }},
		{overloads.TimeGetDayOfYear, overloads.TimestampToDayOfYearWithTz, func(t time.Time) int { return t.YearDay() - 1 }},
		{overloads.TimeGetDayOfMonth, overloads.TimestampToDayOfMonthZeroBasedWithTz, func(t time.Time) int { return t.Day() - 1 }},
		{overloads.TimeGetDate, overloads.TimestampToDayOfMonthOneBasedWithTz, time.Time.Day},
		{overloads.TimeGetDayOfWeek, overloads.TimestampToDayOfWeekWithTz, func(t time.Time) int { return int(t.Weekday()) }},
		{overloads.TimeGetHours, overloads.TimestampToHoursWithTz, time.Time.Hour},
		{overloads.TimeGetMinutes, overloads.TimestampToMinutesWithTz, time.Time.Minute},
		{overloads.TimeGetSeconds, overloads.TimestampToSecondsWithTz, time.Time.Second},
		{overloads.TimeGetMilliseconds, overloads.TimestampToMillisecondsWithTz, func(t time.Time) int { return t.Nanosecond() / int(time.Millisecond) }},
	} {
		list = append(list, cel.Function(a.function, cel.MemberOverload(a.overload, []*cel.Type{cel.TimestampType, cel.StringType}, cel.IntType,
			cel.BinaryBinding(func(lhs, rhs ref.Val) ref.Val {
				moment, okMoment := lhs.(types.Timestamp)
				name, okName := rhs.(types.String)
				if !okMoment || !okName {
					return types.NewErr("no time, or no time zone")
				}
				location, err := z.load(string(name))
				if err != nil {
					return types.NewErr("%v", err)
				}
				return types.Int(a.get(moment.In(location)))
			}))))
	}
	return list
}
