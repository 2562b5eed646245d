// The worker that tests/lossless reloads.
package main

import (
	"fmt"
	"log"
	"net/http"

	"ratoon"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") })
	if err := ratoon.ListenAndServe(&http.Server{}, "127.0.0.1:8080"); err != nil {
		log.Fatal(err)
	}
}
