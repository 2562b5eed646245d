# frozen_string_literal: true

require 'fileutils'
require 'io/wait'
require 'minitest/autorun'
require 'net/http'
require 'rbconfig'
require 'socket'
require 'tmpdir'

# A stand-in for the master: starts a program with a listening socket as descriptor 3, a status page as 4, and a notify socket.
class Worker
  LIBRARY = File.expand_path('../lib', __dir__)
  PAGE_BYTES = 256 * 1024
  # Seconds: longer than Rails takes to load on a busy machine.
  DEADLINE = 60

  # The first ten words of a page, as the master makes it; `stop_timeout` in seconds.
  def self.header(stop_timeout = 60)
    ['RATOONSB', 1, PAGE_BYTES, 512, 32, 4096, 640, 400, 0, (stop_timeout * 1e9).to_i].pack('a8Q9')
  end

  # Waits for a condition, looking every 10 ms; fails after the deadline.
  def self.until(what, deadline = DEADLINE)
    limit = Process.clock_gettime(Process::CLOCK_MONOTONIC) + deadline
    loop do
      result = yield
      return result if result
      raise "not seen within #{deadline} s: #{what}" if Process.clock_gettime(Process::CLOCK_MONOTONIC) > limit

      sleep 0.01
    end
  end

  # Runs the block with a worker, and ends it.
  def self.with(command, files = {}, **options)
    worker = new(command, files, **options)
    yield worker
  ensure
    worker&.end
  end

  attr_reader :port, :said, :pid, :directory

  # `files`: text by name, in the worker's directory.
  def initialize(command, files = {}, stop_timeout: 60, env: {})
    @directory = Dir.mktmpdir('ratoon-ruby-')
    files.each { |name, text| File.write(File.join(@directory, name), text) }
    @page = File.open(File.join(@directory, 'page'), 'w+b')
    @page.truncate(PAGE_BYTES)
    @page.pwrite(Worker.header(stop_timeout), 0)
    @notify = Socket.new(:UNIX, :DGRAM)
    @notify.bind(Addrinfo.unix(File.join(@directory, 'notify')))
    @said = []
    listener = TCPServer.new('127.0.0.1', 0)
    @port = listener.addr[1]
    variables = {
      'RUBYLIB' => LIBRARY, 'LISTEN_FDS' => '1', 'RATOON_SCOREBOARD' => '4', 'NOTIFY_SOCKET' => File.join(@directory, 'notify'),
      'RAILS_ENV' => 'production', 'WEB_CONCURRENCY' => nil
    }.merge(env)
    # The shell sets LISTEN_PID, as the master does.
    @pid = spawn(variables, 'sh', '-c', 'LISTEN_PID=$$ exec "$@"', 'sh', *command, chdir: @directory, pgroup: true,
                 3 => listener, 4 => @page, %i[out err] => File.join(@directory, 'log'), close_others: true)
    listener.close
  end

  # Waits until the worker has said the word.
  def hears(word)
    Worker.until("the worker says #{word}: #{log}") do
      listen
      @said.include?(word)
    end
  end

  # What the worker has said so far.
  def listen
    loop { @said.concat(@notify.recv_nonblock(8192).split("\n")) }
  rescue IO::WaitReadable
    @said
  end

  def log
    File.read(File.join(@directory, 'log'))
  end

  def terminate(signal = 'TERM')
    Process.kill(signal, @pid)
  end

  # The worker's end, within the deadline.
  def exit_status
    Worker.until("the worker ends: #{log}") do
      @status ||= Process.wait2(@pid, Process::WNOHANG)&.last
    end
  end

  def end
    unless @status
      Process.kill('KILL', -@pid)
      Process.wait(@pid)
    end
    @page.close
    @notify.close
    FileUtils.rm_rf(@directory)
  end

  def word(index)
    @page.pread(8, index * 8).unpack1('Q')
  end

  # The named counters of the page.
  def counters
    (0...32).map { |index| @page.pread(64, 512 + index * 64).unpack('Q2Z48') }
            .select { |state, _, _| state == 2 }.to_h { |_, total, name| [name, total] }
  end

  # The first slot's state, request's state, sequence, method, URL and info.
  def slot
    bytes = @page.pread(640, 4096)
    words = bytes.unpack('Q80')
    text = ->(word, length) { bytes.byteslice(word * 8, length) }
    shape = words[13]
    { state: words[0], sequence: words[1], request: words[6], method: text.call(16, shape & 0xff),
      url: text.call(18, shape >> 32 & 0xffff), info: text.call(48, shape >> 48), family: shape >> 16 & 0xff }
  end

  # An HTTP connection that is kept.
  def connect
    http = Net::HTTP.new('127.0.0.1', @port)
    http.read_timeout = DEADLINE
    http.keep_alive_timeout = 600
    http.max_retries = 0
    http.start
  end
end
