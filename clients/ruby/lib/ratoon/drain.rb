# frozen_string_literal: true

# The drain: whether it has begun, and which blocks are called then.
module Ratoon
  # No lock: a signal handler may not take one. Array#push and Array#shift are atomic.
  @draining = false
  @drain_callbacks = []

  class << self
    # Whether the drain has begun.
    def draining?
      @draining
    end

    # Calls the block when the drain begins, at once if it has begun: stop timers and consumers there.
    def when_draining(&callback)
      @drain_callbacks.push(callback)
      call_drain_callbacks if @draining
    end

    # Begins the drain; a second call does nothing. The Puma plugin does it at SIGTERM.
    def begin_drain
      return if @draining

      @draining = true
      call_drain_callbacks
    end

    # Makes SIGTERM begin the drain, and then do what it did before. For programs with a loop of their own.
    def handle_sigterm
      before = trap('TERM') do
        # A thread, since a signal handler may not take a lock and the blocks may need one.
        Thread.new { begin_drain }
        before.call if before.respond_to?(:call)
      end
    end

    # Seconds for which an idle connection is kept during a drain, and after which the drain ends: 10 s but at most half of
    # `worker.stop_timeout`, and five sixths of it (of 30 s where the master does not tell it).
    def drain_times
      stop_timeout = Scoreboard.current&.stop_timeout || 30.0
      [[10.0, stop_timeout / 2].min, stop_timeout * 5 / 6]
    end

    private

    def call_drain_callbacks
      while (callback = @drain_callbacks.shift)
        callback.call
      end
    end
  end
end
