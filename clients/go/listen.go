package ratoon

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// firstDescriptor is the first of the handed sockets (sd_listen_fds(3)).
const firstDescriptor = 3

// Listener is a handed socket with its name in LISTEN_FDNAMES.
type Listener struct {
	net.Listener
	Name string
}

// Listeners takes the handed stream sockets, in their order; none without a master. Further calls find none: this one closes the
// inherited descriptors, so that no child inherits them.
//
// LISTEN_PID is not compared: a wrapper passes the sockets on to a child.
func Listeners() ([]Listener, error) {
	count, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	os.Unsetenv("LISTEN_FDS")
	var listeners []Listener
	for index := 0; index < count; index++ {
		descriptor := firstDescriptor + index
		file := os.NewFile(uintptr(descriptor), "listen")
		listener, err := net.FileListener(file)
		file.Close()
		if err != nil {
			return listeners, fmt.Errorf("descriptor %d of LISTEN_FDS=%d: %w", descriptor, count, err)
		}
		name := ""
		if index < len(names) {
			name = names[index]
		}
		listeners = append(listeners, Listener{listener, name})
	}
	return listeners, nil
}
