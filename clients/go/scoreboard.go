package ratoon

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// The worker's status page: memory shared with the master, which reads it also when this process hangs or is dead. RATOON_SCOREBOARD is the number of
// its descriptor; the layout (version 1) is in clients/rust/src/scoreboard/mod.rs. Numbers are 64-bit words in the machine's byte order. A page has one
// writer: one process, any number of goroutines.

const (
	pageMagic   = "RATOONSB"
	pageVersion = 1
	wordBytes   = 8
	// requestsOnly: the bits of the word for what is not counted: connections, bytes read, bytes written.
	requestsOnly = 7
)

// Words of the header.
const (
	wordPID            = 8
	wordStopTimeout    = 9
	wordRequests       = 17
	wordSlotsUsed      = 20
	wordUnlisted       = 21
	wordNotCounted     = 22
	wordUnlistedInWork = 24
	wordTimed          = 25
	wordTimedLogs      = 26
	wordTimedSquares   = 27
)

// Words of a slot, states of its connection and of its request.
const (
	slotState, slotSequence, slotRequests, slotRequest, slotGuarded, slotWords = 0, 1, 3, 6, 8, 80
	stateFree, stateActive                                                     = 0, 2
	processing, sending, finished, aborted                                     = 1, 2, 3, 4
)

const (
	methodBytes, urlBytes, infoBytes = 16, 240, 256
	counterWords, counterNameBytes   = 8, 48
)

type scoreboard struct {
	words       []uint64
	stopTimeout time.Duration
	mutex       sync.Mutex
	free        []int
	counters    map[string]*uint64
	shown       int
}

var (
	pageOnce sync.Once
	pageOpen *scoreboard
)

// page is the page of this process, or nil: without a master, or when another process writes it. Opened at the first call.
func page() *scoreboard {
	pageOnce.Do(func() {
		if descriptor, err := strconv.Atoi(os.Getenv("RATOON_SCOREBOARD")); err == nil {
			pageOpen, _ = openPage(descriptor)
		}
	})
	return pageOpen
}

// openPage maps a page. It fails when the descriptor is no page of a version that is known, or when another process writes it.
func openPage(descriptor int) (*scoreboard, error) {
	var stat syscall.Stat_t
	if err := syscall.Fstat(descriptor, &stat); err != nil {
		return nil, err
	}
	bytes, err := syscall.Mmap(descriptor, 0, int(stat.Size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	syscall.CloseOnExec(descriptor)
	// A mapping begins at a page of memory, so its words are aligned; it lives as long as the process.
	words := unsafe.Slice((*uint64)(unsafe.Pointer(&bytes[0])), len(bytes)/wordBytes)
	if len(words) < 64 || string(bytes[:8]) != pageMagic || words[1] != pageVersion {
		return nil, fmt.Errorf("descriptor %d is no status page of version %d", descriptor, pageVersion)
	}
	if !atomic.CompareAndSwapUint64(&words[wordPID], 0, uint64(os.Getpid())) {
		return nil, fmt.Errorf("the status page is written by process %d already", words[wordPID])
	}
	atomic.StoreUint64(&words[wordNotCounted], requestsOnly)
	stopTimeout := time.Duration(words[wordStopTimeout])
	return &scoreboard{words: words, stopTimeout: stopTimeout, counters: make(map[string]*uint64)}, nil
}

// Count adds to a running total that is summed over the pool. At most 32 names of at most 48 bytes.
func Count(name string, by uint64) {
	if board := page(); board != nil {
		board.count(name, by)
	}
}

func (s *scoreboard) count(name string, by uint64) {
	s.mutex.Lock()
	total, known := s.counters[name]
	if !known {
		total = s.newCounter(name)
		s.counters[name] = total
	}
	s.mutex.Unlock()
	if total != nil {
		atomic.AddUint64(total, by)
	}
}

// newCounter is nil for what the page has no place for.
func (s *scoreboard) newCounter(name string) *uint64 {
	if uint64(s.shown) >= s.words[4] || len(name) > counterNameBytes {
		return nil
	}
	at := int(s.words[3])/wordBytes + s.shown*counterWords
	s.shown++
	copy(asBytes(s.words[at+2:at+counterWords]), name)
	atomic.StoreUint64(&s.words[at], 2) // it counts from now on
	return &s.words[at+1]
}

// request shows a request, in a slot of its own, until it ends. version: 10, 11, 20 or 30.
func (s *scoreboard) request(method, url string, version int, peer string) *request {
	shown := &request{board: s, method: cut(method, methodBytes), url: cut(url, urlBytes), version: uint64(version)}
	shown.began = monotonic()
	if address, err := netip.ParseAddrPort(peer); err == nil {
		shown.address, shown.port = address.Addr().Unmap(), uint64(address.Port())
	}
	atomic.AddUint64(&s.words[wordRequests], 1)
	s.mutex.Lock()
	if last := len(s.free) - 1; last >= 0 {
		shown.index, s.free = s.free[last], s.free[:last]
		shown.slot = s.slot(shown.index)
	} else if used := s.words[wordSlotsUsed]; used < s.words[7] {
		shown.slot, shown.index = s.slot(int(used)), int(used)
		atomic.StoreUint64(&s.words[wordSlotsUsed], used+1)
	} else {
		atomic.AddUint64(&s.words[wordUnlisted], 1)
		atomic.AddUint64(&s.words[wordUnlistedInWork], 1)
	}
	s.mutex.Unlock()
	shown.show(nil)
	return shown
}

func (s *scoreboard) slot(index int) []uint64 {
	at := (int(s.words[5]) + index*int(s.words[6])) / wordBytes
	return s.words[at : at+slotWords]
}

// request is a request on the page.
type request struct {
	board       *scoreboard
	slot        []uint64 // nil: there was none free
	index       int
	mutex       sync.Mutex
	ended       bool
	timed       atomic.Bool
	method, url string
	version     uint64
	began       uint64
	address     netip.Addr
	port        uint64
}

func (r *request) describe(object any) {
	info, err := json.Marshal(object)
	if err != nil || len(info) > infoBytes {
		info = nil
	}
	r.show(info)
}

func (r *request) show(info []byte) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if r.slot == nil || r.ended {
		return
	}
	family, address := uint64(0), []byte(nil)
	if r.address.IsValid() {
		family, address = 6, r.address.AsSlice()
		if r.address.Is4() {
			family = 4
		}
	}
	sequence := r.slot[slotSequence]
	atomic.StoreUint64(&r.slot[slotSequence], sequence|1) // odd while the guarded words are written
	guarded := r.slot[slotGuarded:]
	bytes := asBytes(guarded)
	for index := range bytes {
		bytes[index] = 0
	}
	guarded[0], guarded[4] = r.began, r.began
	guarded[1] = family | r.port<<16
	guarded[5] = uint64(len(r.method)) | r.version<<8 | family<<16 | uint64(len(r.url))<<32 | uint64(len(info))<<48
	copy(bytes[2*wordBytes:], address)
	copy(bytes[6*wordBytes:], address)
	copy(bytes[8*wordBytes:], r.method)
	copy(bytes[10*wordBytes:], r.url)
	copy(bytes[40*wordBytes:], info)
	atomic.StoreUint64(&r.slot[slotSequence], (sequence|1)+1)
	atomic.StoreUint64(&r.slot[slotRequests], 1)
	atomic.StoreUint64(&r.slot[slotRequest], processing)
	atomic.StoreUint64(&r.slot[slotState], stateActive)
}

// takeTime counts the time to answer, once.
func (r *request) takeTime() {
	if r.timed.Swap(true) {
		return
	}
	microseconds := math.Max(float64(monotonic()-r.began)/1000, 1)
	log := uint64(math.Min(math.Round(16*math.Log2(microseconds)), 640))
	atomic.AddUint64(&r.board.words[wordTimed], 1)
	atomic.AddUint64(&r.board.words[wordTimedLogs], log)
	atomic.AddUint64(&r.board.words[wordTimedSquares], log*log)
}

// sending: the head of the answer is sent.
func (r *request) sending() {
	r.takeTime()
	if r.slot != nil {
		atomic.StoreUint64(&r.slot[slotRequest], sending)
	}
}

// end: the answer was sent whole with this status; 0: it was cut off.
func (r *request) end(status int) {
	if status == 0 {
		r.board.count("errors", 1)
		r.close(aborted)
		return
	}
	r.takeTime()
	r.board.count(fmt.Sprintf("responses_%dxx", status/100), 1)
	r.close(finished)
}

// hijacked: the program took the connection over; the request is no longer shown, and its end is not counted.
func (r *request) hijacked() {
	r.close(finished)
}

func (r *request) close(state uint64) {
	r.mutex.Lock()
	r.ended = true
	r.mutex.Unlock()
	if r.slot == nil {
		atomic.AddUint64(&r.board.words[wordUnlistedInWork], ^uint64(0))
		return
	}
	atomic.StoreUint64(&r.slot[slotRequest], state)
	atomic.StoreUint64(&r.slot[slotState], stateFree)
	r.board.mutex.Lock()
	r.board.free = append(r.board.free, r.index)
	r.board.mutex.Unlock()
}

func asBytes(words []uint64) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*wordBytes)
}

func cut(text string, most int) string {
	if len(text) > most {
		return text[:most]
	}
	return text
}

// monotonic is CLOCK_MONOTONIC in nanoseconds.
func monotonic() uint64 {
	var time syscall.Timespec
	_, _, _ = syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&time)), 0)
	return uint64(time.Nano())
}
