# frozen_string_literal: true

require_relative 'notify'
require_relative 'preload/channel'
require_relative 'preload/command'

module Ratoon
  # The preload process (`worker.preload`): loads the application once, and Ratoon's workers are forked from it.
  #
  # Each worker runs the unmodified `worker.command`, a program of Ruby, in a fork. A thread, a connection or a lock does not survive a
  # fork in a usable state: close it in `before_fork`, or open it in `after_fork`. Without a master the blocks are never called.
  module Preload
    @before = []
    @after = []

    class << self
      # Calls the block in the preload process, before each fork of a worker.
      def before_fork(&block)
        @before << block
      end

      # Calls the block in each worker, before its program runs.
      def after_fork(&block)
        @after << block
      end

      # Loads what the words say (`-r LIBRARY`, `-I DIRECTORY`), says READY=1 and forks a worker for each request. Returns never.
      def main(words)
        channel = Channel.from_environment
        abort <<~TEXT.tr("\n", ' ').strip unless channel
          ratoon-preload: RATOON_FORK is not set: this is the program of worker.preload, which Ratoon starts; write
          `preload = ["bundle", "exec", "ratoon-preload", "-r", "./config/environment"]` into [worker]
        TEXT
        load_all(words)
        Ratoon.notify(READY: 1)
        request = channel.serve(@before, @after) do |first|
          Command.prepare(first.program, first.argv)
          Adapter.install if defined?(Adapter) && defined?(::Puma::Configuration)
          settle_memory
        end
        # The master has closed the socket: the generation is over.
        exit!(0) unless request
        Adapter.install if defined?(Adapter)
        Command.run(request.program, request.argv)
      end

      private

      def load_all(words)
        words = words.dup
        until words.empty?
          option = words.shift
          value = option[2..].to_s.empty? ? words.shift : option[2..]
          case option[0, 2]
          when '-r' then require value
          when '-I' then $LOAD_PATH.unshift(File.expand_path(value))
          else abort "ratoon-preload: #{option}: the options are -r LIBRARY and -I DIRECTORY"
          end
        end
      end

      # A worker that collects this garbage would copy its memory.
      def settle_memory
        return Process.warmup if Process.respond_to?(:warmup)

        # Objects that live through three collections are old: a minor collection of a worker does not write to them.
        4.times { GC.start }
      end
    end
  end
end
