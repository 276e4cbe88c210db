// Stands in for Grafana Pyroscope, whose server no registry serves: its Push API by its own published messages and its
// own framework (connect), with the limits of version 2 as its defaults are, and what it was sent to be read back.
package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/google/pprof/profile"
	pushv1 "github.com/grafana/pyroscope/api/gen/proto/go/push/v1"
	"github.com/grafana/pyroscope/api/gen/proto/go/push/v1/pushv1connect"
	"github.com/google/uuid"
)

var (
	address = flag.String("address", "127.0.0.1:0", "where to listen")
	tenants = flag.Bool("tenants", false, "every request needs a tenant")
	limit   = flag.Int("limit", 1<<30, "pushes that are taken before the limit is reached")
	// The names that version 1, and tenants of version 2 with sanitising, take.
	name = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_.]*$`)
)

type pushed struct {
	Tenant string            `json:"tenant"`
	Labels map[string]string `json:"labels"`
	ID     string            `json:"id"`
	Pprof  []byte            `json:"pprof"`
}

type pusher struct {
	lock sync.Mutex
	all  []pushed
}

func invalid(format string, args ...any) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(format, args...))
}

func (p *pusher) Push(_ context.Context, request *connect.Request[pushv1.PushRequest]) (*connect.Response[pushv1.PushResponse], error) {
	tenant := request.Header().Get("X-Scope-OrgID")
	if *tenants && tenant == "" {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("no org id"))
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	if len(p.all) >= *limit {
		return nil, connect.NewError(connect.CodeResourceExhausted, errors.New("ingestion rate limit exceeded"))
	}
	for _, series := range request.Msg.Series {
		labels := map[string]string{}
		for _, label := range series.Labels {
			if !name.MatchString(label.Name) || len(label.Value) > 2048 {
				return nil, invalid("invalid label %q=%q", label.Name, label.Value)
			}
			if _, again := labels[label.Name]; again {
				return nil, invalid("label %q twice", label.Name)
			}
			labels[label.Name] = label.Value
		}
		if labels["__name__"] == "" || labels["service_name"] == "" || len(labels) > 30 {
			return nil, invalid("labels of a series: %v", labels)
		}
		for _, sample := range series.Samples {
			if _, err := uuid.Parse(sample.ID); err != nil {
				return nil, invalid("%v", err)
			}
			if err := check(sample.RawProfile); err != nil {
				return nil, err
			}
			p.all = append(p.all, pushed{tenant, labels, sample.ID, sample.RawProfile})
		}
	}
	return connect.NewResponse(&pushv1.PushResponse{}), nil
}

func check(raw []byte) error {
	reader, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return invalid("%v", err)
	}
	// 4 MiB are invalid, and more than the burst of 2 is never taken.
	plain, err := io.ReadAll(io.LimitReader(reader, 2<<20+1))
	if err != nil || len(plain) > 2<<20 {
		return invalid("profile too large, or broken: %v", err)
	}
	profile, err := profile.ParseData(plain)
	if err != nil {
		return invalid("%v", err)
	}
	if err := profile.CheckValid(); err != nil {
		return invalid("%v", err)
	}
	age := time.Since(time.Unix(0, profile.TimeNanos))
	if age > time.Hour || age < -10*time.Minute {
		return invalid("not in the ingestion window: %v", age)
	}
	if len(profile.Sample) == 0 || len(profile.Sample) > 16000 {
		return invalid("%d samples", len(profile.Sample))
	}
	if profile.PeriodType == nil || profile.PeriodType.Type == "" {
		return invalid("no period type")
	}
	for _, of := range profile.SampleType {
		if strings.Contains(of.Type, "-") {
			return invalid("sample type %q", of.Type)
		}
	}
	for _, sample := range profile.Sample {
		if len(sample.Location) > 1000 || len(sample.Label) > 100 {
			return invalid("%d frames, %d labels", len(sample.Location), len(sample.Label))
		}
		for key := range sample.Label {
			if !name.MatchString(key) {
				return invalid("invalid label %q", key)
			}
		}
		for _, value := range sample.Value {
			if value < 0 {
				return invalid("a negative value")
			}
		}
	}
	return nil
}

func main() {
	flag.Parse()
	pusher := &pusher{}
	mux := http.NewServeMux()
	mux.Handle(pushv1connect.NewPusherServiceHandler(pusher))
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ready") })
	mux.HandleFunc("/pushed", func(w http.ResponseWriter, _ *http.Request) {
		pusher.lock.Lock()
		defer pusher.lock.Unlock()
		_ = json.NewEncoder(w).Encode(pusher.all)
	})
	log.Fatal(http.ListenAndServe(*address, mux))
}
