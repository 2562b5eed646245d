# frozen_string_literal: true

require_relative '../ratoon'

module Ratoon
  # Puma as a worker: the handed sockets, READY=1 after boot, requests shown, and a drain that loses no request.
  #
  # Puma that is told to stop closes every connection without a request in work at once, under requests that are on their way. Here it
  # first stops accepting and goes on to serve the connections that it has accepted, each answer with `Connection: close`, until none
  # is left, or no request has come for the grace of `Ratoon.drain_times`.
  module Puma
    # Seconds between looks at the open connections during the drain.
    LOOK = 0.05

    # The open connections of this process, but for those that the program has taken over.
    module Connections
      # Connections between two looks for those that were closed without Puma's knowledge: the program had taken them over.
      PRUNE = 1000

      @open = {}.compare_by_identity
      @added = 0
      @lock = Mutex.new

      class << self
        def add(client)
          @lock.synchronize do
            @open[client] = true
            @added += 1
            prune if (@added % PRUNE).zero?
          end
        end

        def delete(client)
          @lock.synchronize { @open.delete(client) }
        end

        def none?
          @lock.synchronize do
            prune
            @open.empty?
          end
        end

        private

        def prune
          @open.delete_if { |client, _| client.hijacked || client.to_io.closed? }
        end
      end
    end

    # Prepended to Puma::Client.
    module Client
      def initialize(*)
        super
        Connections.add(self)
      end

      def close
        super
      ensure
        Connections.delete(self)
      end
    end

    # Prepended to the configuration.
    module ShownApp
      def app
        Ratoon::Rack.new(super)
      end
    end

    class << self
      # Puma's configuration, with the handed sockets alone where there are some.
      def configure(config)
        config.bind_to_activated_sockets('only')
        # This library says READY=1 and feeds the watchdog: Puma would do it a second time, or complain about a missing gem.
        ENV.delete('NOTIFY_SOCKET')
      end

      def start(launcher)
        if launcher.options[:workers].to_i.positive?
          abort "ratoon: Puma's own workers are Ratoon's business: take `workers` and WEB_CONCURRENCY out, and set worker.count"
        end
        ::Puma::Client.prepend(Client)
        launcher.config.singleton_class.prepend(ShownApp)
        hook(launcher.events)
      end

      private

      def hook(events)
        # Puma 5 and 6 have the older names.
        booted, stopped = events.respond_to?(:after_booted) ? %i[after_booted after_stopped] : %i[on_booted on_stopped]
        events.public_send(booted) { Ratoon.ready }
        # Called at SIGTERM. The thread that accepts learns of it later: while clients keep all threads busy with one request after the
        # other, it waits for a thread. `Connection: close` in their answers ends that. (A signal handler may not take a lock.)
        events.public_send(stopped) { Thread.new { Ratoon.begin_drain } }
        # Called between the last accept and the end of the connections, by the thread that accepts.
        events.register(:state) { |state| drain if state == :stop }
      end

      def drain
        Ratoon.begin_drain
        grace, most = Ratoon.drain_times
        began = now
        until Connections.none? || now - began > most
          break if Ratoon::Rack.in_work.zero? && now - [began, Ratoon::Rack.last_change].max > grace

          sleep LOOK
        end
      rescue StandardError => e
        # Puma would leave its connections open without an end.
        warn "ratoon: the drain ends early: #{e.class}: #{e.message}"
      end

      def now
        Process.clock_gettime(Process::CLOCK_MONOTONIC)
      end
    end
  end
end
