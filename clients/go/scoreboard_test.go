package ratoon

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func open(t *testing.T) *scoreboard {
	t.Helper()
	board, err := openPage(int(newPage(t, time.Minute).Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return board
}

func TestPageOfAnotherVersionIsRefused(t *testing.T) {
	page := newPage(t, 0)
	if _, err := page.WriteAt([]byte{2}, 8); err != nil {
		t.Fatal(err)
	}
	if _, err := openPage(int(page.Fd())); err == nil || !strings.Contains(err.Error(), "no status page of version 1") {
		t.Fatal(err)
	}
}

func TestPageWithAWriterIsRefused(t *testing.T) {
	page := newPage(t, 0)
	if _, err := openPage(int(page.Fd())); err != nil {
		t.Fatal(err)
	}
	if _, err := openPage(int(page.Fd())); err == nil || !strings.Contains(err.Error(), "already") {
		t.Fatal(err)
	}
}

func TestRequestWithoutASlotIsCounted(t *testing.T) {
	board := open(t)
	var requests []*request
	for len(requests) < 401 {
		requests = append(requests, board.request("GET", "/", 11, ""))
	}
	if unlisted, inWork := board.words[wordUnlisted], board.words[wordUnlistedInWork]; unlisted != 1 || inWork != 1 {
		t.Fatal(unlisted, inWork)
	}
	for _, request := range requests {
		request.end(200)
	}
	if inWork, state, free := board.words[wordUnlistedInWork], board.words[512], len(board.free); inWork != 0 || state != 0 || free != 400 {
		t.Fatal(inWork, state, free)
	}
	if again := board.request("GET", "/", 11, ""); again.slot == nil || board.words[wordSlotsUsed] != 400 {
		t.Fatal("a free slot is taken again")
	}
}

func TestTimesToAnswerAreSummedOnceForEachAnswer(t *testing.T) {
	board := open(t)
	shown := board.request("GET", "/", 11, "")
	shown.began = monotonic() - 1_024_000_000
	shown.sending()
	shown.end(200)
	board.request("GET", "/", 11, "").end(0)
	// 2^20 µs are 320, and the test itself takes some microseconds more.
	timed, logs, squares := board.words[wordTimed], board.words[wordTimedLogs], board.words[wordTimedSquares]
	if timed != 1 || logs < 319 || logs > 340 || squares != logs*logs {
		t.Fatal(timed, logs, squares)
	}
}

func TestCountersBeyond32AreNotShown(t *testing.T) {
	board := open(t)
	for number := 0; number < 40; number++ {
		board.count(fmt.Sprint("counter_", number), 2)
	}
	board.count(strings.Repeat("x", 49), 1)
	for index := 0; index < 32; index++ {
		if state, total := board.words[64+index*8], board.words[65+index*8]; state != 2 || total != 2 {
			t.Fatal(index, state, total)
		}
	}
	if after := board.words[64+32*8]; after != 0 {
		t.Fatal(after)
	}
}

func TestAddressesAreInNetworkOrder(t *testing.T) {
	board := open(t)
	for peer, expected := range map[string]string{
		"192.0.2.1:7":          "4 7 192 0",
		"[::ffff:192.0.2.1]:7": "4 7 192 0",
		"[2001:db8::1%eth0]:9": "6 9 32 1",
		"@":                    "0 0 0 0",
	} {
		shown := board.request("GET", "/", 11, peer)
		address := asBytes(shown.slot[10:12])
		if found := fmt.Sprint(shown.slot[9]&0xff, shown.slot[9]>>16, address[0], address[1]); found != expected {
			t.Errorf("%s: %s instead of %s", peer, found, expected)
		}
		shown.end(200)
	}
}

func TestURLIsCutAt240Bytes(t *testing.T) {
	if shown := open(t).request("GET", "/"+strings.Repeat("x", 300), 11, ""); shown.slot[13]>>32&0xffff != 240 {
		t.Fatal(shown.slot[13])
	}
}
