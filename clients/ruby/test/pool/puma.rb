# frozen_string_literal: true

# A thread for each client of tests/lossless: Puma lets clients that ask without a pause hold its threads, and others wait for them.
threads 1, 16
plugin :ratoon
