# frozen_string_literal: true

require 'json'
require 'socket'

# Messages to the master, as in sd_notify(3).
module Ratoon
  # Read once, so that a server which would speak for itself can be kept from it (ratoon/puma).
  @notify_socket = ENV['NOTIFY_SOCKET']

  class << self
    # Call in a forked process that is a worker of its own: it has another NOTIFY_SOCKET.
    def forked
      @notify_socket = ENV['NOTIFY_SOCKET']
    end

    # Whether a master listens: NOTIFY_SOCKET was set when the library was loaded.
    def supervised?
      !@notify_socket.nil?
    end

    # Sends assignments, like `notify(READY: 1)`; a Hash is sent as JSON.
    #
    # Returns whether they were sent: false without a master, and when it cannot be reached.
    def notify(assignments)
      return false unless supervised?

      text = assignments.map { |name, value| "#{name}=#{format_value(value)}" }.join("\n")
      path = @notify_socket.sub(/\A@/, "\0")
      Socket.open(:UNIX, :DGRAM) { |socket| socket.send(text, 0, Addrinfo.unix(path)) }
      true
    rescue SystemCallError
      false
    end

    # Says READY=1: this worker serves. Feeds the watchdog from then on, and takes the status page, which shows no requests so far.
    def ready
      Scoreboard.current
      feed_watchdog
      notify(READY: 1)
    end

    # Says STATUS=, a line that `ratoon status` shows.
    def status(text)
      notify(STATUS: text)
    end

    # Says STOPPING=1: this worker leaves by its own will, and a replacement starts at once.
    def leaving
      notify(STOPPING: 1)
    end

    # Shows a JSON object of at most 3 KiB as the worker's `info`.
    def info(**values)
      notify(X_RATOON_INFO: values)
    end

    # Sends WATCHDOG=1 at half of WATCHDOG_USEC from a thread of its own, where `worker.watchdog` is set.
    #
    # That shows that the interpreter runs. A program whose event loop may hang says WATCHDOG=1 from the loop instead.
    def feed_watchdog
      microseconds = ENV['WATCHDOG_USEC'].to_i
      return if !supervised? || microseconds <= 0 || @watchdog&.alive?

      @watchdog = Thread.new do
        loop do
          notify(WATCHDOG: 1)
          sleep(microseconds / 2e6)
        end
      end
    end

    private

    def format_value(value)
      value.is_a?(Hash) ? JSON.generate(value) : value.to_s.tr("\n", ' ')
    end
  end
end
