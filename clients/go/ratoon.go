// Package ratoon is the worker library of Ratoon for Go: the handed sockets, readiness, a drain that loses no request, and requests on
// the status page. Each call does nothing where the program runs without a master, so the same program runs alone.
package ratoon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
)

// Version is the same as the master's.
const Version = "0.1.0"

// Identity has the words of ratoon(1).
type Identity struct {
	Instance                 string
	Generation, Worker, Slot uint64
}

// CurrentIdentity tells instance, generation, worker and slot of this process; false without a master.
func CurrentIdentity() (Identity, bool) {
	instance, supervised := os.LookupEnv("RATOON_INSTANCE")
	number := func(name string) uint64 {
		value, _ := strconv.ParseUint(os.Getenv("RATOON_"+name), 10, 64)
		return value
	}
	return Identity{instance, number("GENERATION"), number("WORKER"), number("SLOT")}, supervised
}

// ServerStatus reads the status document of the whole pool (docs/contract.md §6) into document, as json.Unmarshal does.
func ServerStatus(ctx context.Context, document any) error {
	path := os.Getenv("RATOON_CONTROL")
	if path == "" {
		return errors.New("RATOON_CONTROL is not set: this process has no master")
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/status", nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET /status at %s: %s: %s", path, response.Status, strings.TrimSpace(string(body)))
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(body, document)
}
