package broker_test

import (
	"os"
	"testing"

	"github.com/daypass/daypass/broker/devkit/devtest"
)

func TestMain(m *testing.M) { os.Exit(devtest.Main(m)) }
