package main

import (
	"fmt"
	"io"

	"github.com/daypass/daypass/e2e/bench/rows"
)

// figure is one thing that is told of every sample.
type figure struct {
	suffix string
	unit   string
	of     func(sample) float64
}

func figures(s side) []figure {
	list := []figure{
		{"", "1/s", rate},
		{" p50", "ms", func(s sample) float64 { return s.p50 }},
		{" p99", "ms", func(s sample) float64 { return s.p99 }},
	}
	for _, who := range []string{cpuBroker, cpuDatabase, cpuLoad} {
		if _, told := s.cpu[who]; told {
			list = append(list, figure{" cpu " + who, "µs", func(s sample) float64 { return s.cpu[who] }})
		}
	}
	return list
}

// rows are the figures of both sides, each beside its limit. A broker's CPU that
// has no limit of its own (the bare statement has no broker) stands beside the
// database's.
func (m *measured) rows() []rows.Row {
	limits := map[string]float64{}
	var list []rows.Row
	for _, f := range figures(m.limit) {
		v := median(m.limitIn, f.of)
		limits[f.suffix] = v
		list = append(list, rows.Row{Name: m.limit.name + f.suffix, Value: v, Unit: f.unit, Baseline: m.limit.name + f.suffix, Ratio: 1})
	}
	for _, f := range figures(m.ours) {
		against := f.suffix
		if _, told := limits[against]; !told {
			against = " cpu " + cpuDatabase
		}
		row := rows.Row{Name: m.ours.name + f.suffix, Value: median(m.oursIn, f.of), Unit: f.unit, Baseline: m.limit.name + against}
		if limits[against] > 0 { // CPU times have a grain of 10 ms: a very short run may show none
			row.Ratio = row.Value / limits[against]
		}
		list = append(list, row)
	}
	return list
}

// table prints each pair as soon as it is measured.
type table struct {
	out    io.Writer
	headed bool
}

func newTable(out io.Writer) *table { return &table{out: out} }

func (t *table) add(m *measured) error {
	if !t.headed {
		t.headed = true
		if _, err := fmt.Fprintf(t.out, "%-34s %7s %6s %7s %8s %8s   %s\n%-34s %7s %6s %7s %8s %8s %8s %8s %8s\n",
			"", "", "", "", "", "", "CPU, µs per exchange", "", "1/s", "ratio", "spread", "p50 ms", "p99 ms", "broker", "database", "load"); err != nil {
			return err
		}
	}
	if err := t.line(m.limit, m.limitIn, ""); err != nil {
		return err
	}
	return t.line(m.ours, m.oursIn, fmt.Sprintf("%.2f", median(m.oursIn, rate)/median(m.limitIn, rate)))
}

func (t *table) line(s side, samples []sample, ratio string) error {
	cpu := func(who string) string {
		if _, told := s.cpu[who]; !told {
			return "–"
		}
		return fmt.Sprintf("%.0f", median(samples, func(s sample) float64 { return s.cpu[who] }))
	}
	_, err := fmt.Fprintf(t.out, "%-34s %7.0f %6s %6.0f%% %8.2f %8.2f %8s %8s %8s\n", s.name, median(samples, rate), ratio, 100*spread(samples),
		median(samples, func(s sample) float64 { return s.p50 }), median(samples, func(s sample) float64 { return s.p99 }),
		cpu(cpuBroker), cpu(cpuDatabase), cpu(cpuLoad))
	return err
}
