# frozen_string_literal: true

require_relative 'ratoon/version'
require_relative 'ratoon/notify'
require_relative 'ratoon/drain'
require_relative 'ratoon/scoreboard'
require_relative 'ratoon/identity'
require_relative 'ratoon/rack'

# The worker library of Ratoon. Each call does nothing where the program runs without a master, so the same program runs alone.
module Ratoon
  # Under this key a request's env holds its entry on the status page.
  KEY = 'ratoon.request'

  # Adds to a running total that is summed over the pool. At most 32 names of at most 48 bytes.
  def self.count(name, by = 1)
    Scoreboard.current&.count(name.to_s, by)
  end

  # Shows values with a request of the middleware, as a JSON object of at most 256 bytes: pass its Rack env (Rails: `request.env`).
  def self.describe(env, **values)
    env[KEY]&.describe(values)
  end
end
