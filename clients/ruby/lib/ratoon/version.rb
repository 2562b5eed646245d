# frozen_string_literal: true

module Ratoon
  # The same as the master's.
  VERSION = '0.1.0'
end
