# frozen_string_literal: true

module Ratoon
  module Preload
    # A request of the master for one worker; the protocol, version 1, is that of PRELOAD in ratoon-worker(7): fields `name=value`, each
    # ended by a NUL byte.
    class Request
      HEAD = 'ratoon-fork=1'
      # The longest request, bytes; the most descriptors of one.
      MAX = 96 * 1024
      DESCRIPTORS_MAX = 253
      # Uses of a descriptor, in the order of their numbers in the worker.
      ROLES = %w[stdin stdout stderr listener scoreboard].freeze

      attr_reader :worker, :master, :program, :argv, :unset, :environment, :roles

      # Fields with other names are ignored. Raises ArgumentError.
      def initialize(message)
        fields = message.split("\0", -1)
        raise ArgumentError, 'a request of another version' unless fields.first == HEAD
        raise ArgumentError, 'a request that is cut off' unless fields.pop == ''

        values = fields.drop(1).map { |field| field.partition('=').values_at(0, 2) }
        read(values.group_by(&:first).transform_values { |all| all.map(&:last) })
      end

      # The process that will confirm the worker: by that the master notices its exit before it has confirmed.
      def forked(pid)
        "#{HEAD}\0forked=#{worker}\0pid=#{pid}\0"
      end

      # The sender is the worker.
      def confirmed
        "#{HEAD}\0confirmed=#{worker}\0"
      end

      # The worker could not be made.
      def failed(errno)
        "#{HEAD}\0failed=#{worker}\0errno=#{errno}\0"
      end

      private

      def read(values)
        @worker, @master = %w[id master].map { |name| Integer(values.fetch(name).last, 10) }
        @program = values.fetch('program').last
        @argv = values.fetch('arg')
        @unset = values.fetch('unset', [])
        @environment = values.fetch('env', []).map { |entry| entry.partition('=').values_at(0, 2) }
        @roles = values.fetch('fd', [])
        raise ArgumentError, 'a variable without a name' if @environment.any? { |name, _| name.empty? }
        raise ArgumentError, "a descriptor for #{(@roles - ROLES).first}" unless (@roles - ROLES).empty?
      rescue KeyError => e
        raise ArgumentError, "a request without #{e.key}"
      end
    end
  end
end
