# frozen_string_literal: true

require 'socket'
require_relative 'request'

module Ratoon
  module Preload
    # The socket on which the master asks for workers, and the fork of a worker: a child of the master, with a session and descriptors of
    # its own.
    class Channel
      # Descriptors from 3 on that are kept for those of a worker, so that neither Ruby nor the application gets their numbers.
      KEPT = 64
      FIRST = 3
      NUMBER = FIRST + KEPT
      # How long a worker waits for its parent to end, seconds.
      PARENT_TIMEOUT = 30

      # The socket that RATOON_FORK names, or nil without a master.
      def self.from_environment
        given = Integer(ENV.fetch('RATOON_FORK', nil).to_s, exception: false)
        return unless given

        keep_numbers(given) unless given == NUMBER && File.identical?("/proc/self/fd/#{FIRST}", File::NULL)
        ENV.delete('RATOON_FORK')
        new(Socket.for_fd(NUMBER).tap { |socket| socket.close_on_exec = true })
      end

      # Executes this program again, with the numbers in use: descriptors of Ruby itself have some of them now.
      def self.keep_numbers(given)
        words = File.binread('/proc/self/cmdline').split("\0", -1)[0..-2]
        null = (FIRST...NUMBER).to_h { |number| [number, [File::NULL, File::RDWR]] }
        exec({ 'RATOON_FORK' => NUMBER.to_s }, [File.readlink('/proc/self/exe'), words.shift], *words, **null, NUMBER => given)
      rescue SystemCallError => e
        abort "ratoon-preload: cannot keep #{KEPT} descriptors for those of a worker: #{e.message}; worker.limits.nofile must be 128 or more"
      end
      private_class_method :keep_numbers

      def initialize(socket)
        @socket = socket
      end

      # Forks a worker for each request. Returns its request in each worker, and nil at the end of the requests. Calls the block with the
      # first request, before the first fork: all workers of a generation run the same command.
      def serve(before, after)
        prepared = false
        while (request, descriptors = receive)
          yield request unless prepared
          prepared = true
          before.each(&:call)
          if fork_worker(request, descriptors)
            after.each(&:call)
            return request
          end
          descriptors.each(&:close)
        end
      end

      private

      def receive
        room = Request::DESCRIPTORS_MAX * 4 + 64
        message, _, flags, *control = @socket.recvmsg(Request::MAX + 1, 0, room, scm_rights: true)
        return if message.nil? || message.empty?

        descriptors = control.flat_map { |part| part.unix_rights || [] }
        request = Request.new(message)
        cut_off = flags.anybits?(Socket::MSG_TRUNC | Socket::MSG_CTRUNC) || descriptors.size != request.roles.size
        raise ArgumentError, 'a request that is cut off' if cut_off

        [request, descriptors]
      rescue Errno::ECONNRESET
        nil
      rescue ArgumentError => e
        # The master is of another version: it learns that by the end of this process.
        warn "ratoon-preload: #{e.message}"
        nil
      end

      # Forks twice, so that the worker becomes a child of the master. Returns true in the worker.
      def fork_worker(request, descriptors)
        # Buffered output would be written by both processes.
        [$stdout, $stderr].each(&:flush)
        child = fork
        return begin_worker(request, descriptors) unless child

        say(request.failed(Errno::EAGAIN::Errno)) unless ended_well?(child)
        false
      rescue SystemCallError => e
        say(request.failed(e.errno))
        false
      end

      def ended_well?(child)
        Process.wait2(child).last.success?
      rescue Errno::ECHILD
        # The program ignores SIGCHLD, or reaps all children.
        true
      end

      # In the first child, which ends here, and in the worker.
      def begin_worker(request, descriptors)
        worker = fork
        if worker
          # Before this process ends, and the worker is the master's child.
          say(request.forked(worker))
          exit!(0)
        end
        become(request, descriptors)
        true
      rescue StandardError => e
        warn "ratoon-preload: #{e.class}: #{e.message}"
        say(request.failed(e.is_a?(SystemCallError) ? e.errno : Errno::EIO::Errno))
        exit!(0)
      end

      def become(request, descriptors)
        wait_for(request.master)
        Process.setsid
        place(request.roles, descriptors)
        change_environment(request)
        # The master does not wait for this worker any more.
        exit!(1) unless say(request.confirmed)
        @socket.close
      end

      # The master is the parent when the process between them has ended.
      def wait_for(master)
        limit = now + PARENT_TIMEOUT
        until Process.ppid == master
          raise Errno::ESRCH, 'the master is not the parent' if now > limit

          sleep 0.0005
        end
      end

      def now
        Process.clock_gettime(Process::CLOCK_MONOTONIC)
      end

      # Puts the descriptors to their numbers: 0 to 2, the listening sockets from 3 on, then the status page. Those that have come are all
      # above the kept numbers.
      def place(roles, descriptors)
        wanted = roles.zip(descriptors).sort_by.with_index { |(role, _), index| [Request::ROLES.index(role), index] }.map(&:last)
        raise Errno::E2BIG, 'more descriptors than are kept for a worker' if wanted.size > NUMBER

        wanted.each_with_index { |from, number| put(from, number) }
        (wanted.size...NUMBER).each { |number| IO.for_fd(number).close }
        descriptors.each(&:close)
      end

      def put(from, number)
        mode = [File::RDONLY, File::WRONLY, File::WRONLY][number] || File::RDWR
        target = [STDIN, STDOUT, STDERR][number] || IO.for_fd(number, mode, autoclose: false)
        target.reopen(IO.for_fd(from.fileno, mode, autoclose: false))
        target.close_on_exec = false
      end

      def change_environment(request)
        request.unset.each { |name| ENV.delete(name) }
        request.environment.each { |name, value| ENV[name] = value }
        own = Process.pid.to_s
        ENV['LISTEN_PID'] = own if ENV.key?('LISTEN_FDS')
        ENV['WATCHDOG_PID'] = own if ENV.key?('WATCHDOG_USEC')
        Ratoon.forked
      end

      def say(message)
        @socket.send(message, Socket::MSG_NOSIGNAL)
      rescue SystemCallError
        nil
      end
    end
  end
end
