package scale

import (
	"os"
	"testing"
	"time"

	"github.com/tcpstate/tcpstate-go/bench/internal/child"
)

func TestMain(m *testing.M) {
	child.Main()
	os.Exit(m.Run())
}

func TestFINsOfACrowdAreNoticed(t *testing.T) {
	c, err := newCrowd(t.Context(), 19000, true)
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	f, err := c.fin(10, 500)
	if err != nil {
		t.Fatal(err)
	}
	u, err := c.usage(true)
	t.Logf("%+v %v heap per conn %d rss %d bare rss %d", f, err, (u.Heap-c.bare.Heap)/uint64(c.n), u.RSS, c.bare.RSS)
	s, err := ask[Sweep](c.holder, "sweep", 3)
	t.Log(s, err)
	d, err := ask[Dump](c.holder, "diag", none{})
	t.Log(d, err)
}

func TestChurnTmp(t *testing.T) {
	c, err := churning(t.Context(), 10000, 5*time.Second)
	t.Logf("%+v %v", c, err)
}

func TestStormTmp(t *testing.T) {
	c, err := storming(t.Context(), 9000, time.Second)
	t.Logf("%+v %v", c, err)
}

func TestIdleTmp(t *testing.T) {
	d := new(idler)
	if _, err := d.begin(idleArgs{19000, 12 * time.Second, 20 * time.Second, 2}); err != nil {
		t.Fatal(err)
	}
	r, err := d.end(none{})
	t.Logf("%+v %v", r, err)
}
