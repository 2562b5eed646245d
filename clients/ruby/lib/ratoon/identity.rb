# frozen_string_literal: true

require 'json'
require 'socket'
require 'timeout'

# The identity of this worker, and the whole pool's status.
module Ratoon
  # The words of ratoon(1).
  Identity = Struct.new(:instance, :generation, :worker, :slot)

  class << self
    # Instance, generation, worker and slot of this process, or nil without a master.
    def identity(env = ENV)
      return unless env.key?('RATOON_INSTANCE')

      Identity.new(env['RATOON_INSTANCE'], *%w[GENERATION WORKER SLOT].map { |name| env["RATOON_#{name}"].to_i })
    end

    # The status document of the whole pool (docs/contract.md §6), as a Hash. `timeout` in seconds.
    #
    # Raises RuntimeError without a master, SystemCallError when it cannot be reached.
    def server_status(timeout: 10)
      path = ENV.fetch('RATOON_CONTROL') { raise 'RATOON_CONTROL is not set: this process has no master' }
      answer = Timeout.timeout(timeout) do
        UNIXSocket.open(path) do |socket|
          socket.write("GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
          socket.read
        end
      end
      head, body = answer.split("\r\n\r\n", 2)
      status = head.to_s[%r{\AHTTP/1\.[01] (\d+)}, 1]
      raise "GET /status at #{path}: HTTP #{status}: #{body.to_s.strip}" unless status == '200'

      JSON.parse(body)
    end
  end
end
