# frozen_string_literal: true

require 'ipaddr'
require 'json'

module Ratoon
  # The worker's status page: memory shared with the master, which reads it also when this process hangs or is dead.
  #
  # RATOON_SCOREBOARD is the number of its descriptor; the layout (version 1) is in clients/rust/src/scoreboard/mod.rs. Ruby's standard library cannot
  # map memory, but the page is a file, so IO#pwrite writes at offsets. Numbers are 64-bit words in the machine's byte order.
  # A page has one writer: one process, any number of threads.
  class Scoreboard
    MAGIC = 'RATOONSB'
    VERSION = 1
    WORD = 8
    # Words of the header.
    PID = 8
    STOP_TIMEOUT = 9
    TOTALS = 16
    # Bits of the word for what is not counted: connections, bytes read, bytes written. This library counts requests.
    REQUESTS_ONLY = 7
    # States of a connection, and of its request.
    FREE = 0
    ACTIVE = 2
    PROCESSING = 1
    SENDING = 2
    FINISHED = 3
    ABORTED = 4
    METHOD_BYTES = 16
    URL_BYTES = 240
    INFO_BYTES = 256
    COUNTER_BYTES = 64
    COUNTER_NAME_BYTES = 48

    @opening = Mutex.new

    # The page of this process, or nil: without a master, or when another process writes it. Opened at the first call.
    def self.current
      return @current if @opened_by == Process.pid

      @opening.synchronize do
        next if @opened_by == Process.pid

        @current = open_page
        @opened_by = Process.pid
      end
      @current
    end

    def self.open_page
      new(IO.for_fd(Integer(ENV.fetch('RATOON_SCOREBOARD')), 'r+b', autoclose: false))
    rescue KeyError, ArgumentError, SystemCallError
      nil
    end
    private_class_method :open_page

    # How long a drain may take until the worker is killed, in seconds; nil when the master does not say.
    attr_reader :stop_timeout

    # `page`: the open file. Raises ArgumentError when it is no page of a version that is known, or when another process writes it.
    def initialize(page)
      @page = page
      magic, version, _size, @counters_at, @counters_most, @slots_at, @slot_size, @slots, pid, stop_timeout =
        page.pread(10 * WORD, 0).unpack('a8Q9')
      raise ArgumentError, "descriptor #{page.fileno} is no status page of version #{VERSION}" if [magic, version] != [MAGIC, VERSION]
      raise ArgumentError, "the status page is written by process #{pid} already" unless pid.zero?

      @stop_timeout = stop_timeout.zero? ? nil : stop_timeout / 1e9
      @lock = Mutex.new
      @requests = @slots_used = @unlisted = @unlisted_in_work = 0
      @timed = @timed_logs = @timed_squares = 0
      @free = []
      @counters = {}
      write_totals
      put(PID * WORD, [Process.pid].pack('Q'))
    end

    # Shows a request until it ends. `version`: 10, 11, 20 or 30; `address`: the client's, as text.
    def request(method, url, version, address)
      index = @lock.synchronize do
        @requests += 1
        slot = @free.pop
        if slot.nil? && @slots_used < @slots
          slot = @slots_used
          @slots_used += 1
        elsif slot.nil?
          @unlisted += 1
          @unlisted_in_work += 1
        end
        write_totals
        slot
      end
      Request.new(self, index, method, url, version, address)
    end

    # Adds to a named counter: at most 32 names of at most 48 bytes; further ones are not shown.
    def count(name, by = 1)
      @lock.synchronize do
        counter = (@counters[name] ||= new_counter(name))
        counter[:total] += by
        put(counter[:at] + WORD, [counter[:total]].pack('Q')) if counter[:at]
      end
    end

    # @private An answer was given after this time.
    def timed(nanoseconds)
      log = [(16 * Math.log2([nanoseconds / 1000.0, 1].max)).round, 640].min
      @lock.synchronize do
        @timed += 1
        @timed_logs += log
        @timed_squares += log * log
        write_totals
      end
    end

    # @private The offset of a slot's word, bytes.
    def at(index, word = 0)
      @slots_at + index * @slot_size + word * WORD
    end

    # @private The request of this slot has ended; nil: it had no slot.
    def free(index)
      @lock.synchronize do
        if index
          put(at(index), [FREE].pack('Q'))
          @free.push(index)
        else
          @unlisted_in_work -= 1
          write_totals
        end
      end
    end

    # @private
    def put(offset, bytes)
      @page.pwrite(bytes, offset)
    rescue SystemCallError, IOError
      # The page only shows; a worker serves without it, too.
    end

    private

    def write_totals
      put(TOTALS * WORD, [0, @requests, 0, 0, @slots_used, @unlisted, REQUESTS_ONLY, 0, @unlisted_in_work,
                          @timed, @timed_logs, @timed_squares].pack('Q12'))
    end

    def new_counter(name)
      index = @counters.count { |_, counter| counter[:at] }
      return { at: nil, total: 0 } if index >= @counters_most || name.bytesize > COUNTER_NAME_BYTES

      at = @counters_at + index * COUNTER_BYTES
      put(at + WORD, [0, name].pack("Qa#{COUNTER_NAME_BYTES}"))
      put(at, [2].pack('Q')) # it counts from now on
      { at: at, total: 0 }
    end

    # A request on the page, in a slot of its own.
    class Request
      def initialize(board, index, method, url, version, address)
        @board = board
        @index = index
        @method = method.byteslice(0, METHOD_BYTES)
        @url = url.byteslice(0, URL_BYTES)
        @version = version
        @family, @address = Request.address(address)
        @began = Process.clock_gettime(Process::CLOCK_MONOTONIC, :nanosecond)
        @sequence = 0
        @ended = @timed = false
        show('')
      end

      # Shows a Hash as a JSON object of at most 256 bytes with the request; a larger one is left out.
      def describe(values)
        text = JSON.generate(values)
        show(text.bytesize <= INFO_BYTES ? text : '')
      end

      # The head of the answer is sent.
      def sending
        take_time
        @board.put(@board.at(@index, 6), [SENDING].pack('Q')) if @index
      end

      # The answer was sent whole with this status; nil: it was cut off.
      def end(status)
        return if @ended

        @ended = true
        take_time if status
        @board.count(status ? "responses_#{status / 100}xx" : 'errors')
        close(status ? FINISHED : ABORTED)
      end

      # The program took the connection over (`rack.hijack`): the request is no longer shown, and its end is not counted.
      def hijacked
        return if @ended

        @ended = true
        close(FINISHED)
      end

      # @private Family (0: none, 4, 6) and the bytes of an address in network order.
      def self.address(text)
        address = IPAddr.new(text.to_s.sub(/%.*/, '')).native
        [address.ipv6? ? 6 : 4, address.hton]
      rescue IPAddr::Error
        [0, '']
      end

      private

      def take_time
        return if @timed

        @timed = true
        @board.timed(Process.clock_gettime(Process::CLOCK_MONOTONIC, :nanosecond) - @began)
      end

      def close(state)
        @board.put(@board.at(@index, 6), [state].pack('Q')) if @index
        @board.free(@index)
      end

      def show(info)
        return if @index.nil? || @ended

        shape = @method.bytesize | @version << 8 | @family << 16 | @url.bytesize << 32 | info.bytesize << 48
        guarded = [@began, @family, @address, @began, shape, @address, @method, @url, info].pack('Q2a16Q2a16a16a240a256')
        # The sequence is odd while the guarded words are written.
        @board.put(@board.at(@index), [ACTIVE, @sequence + 1, 0, 1, 0, 0, PROCESSING, 0].pack('Q8') + guarded)
        @sequence += 2
        @board.put(@board.at(@index, 1), [@sequence].pack('Q'))
      end
    end
  end
end
