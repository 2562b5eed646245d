# frozen_string_literal: true

# Makes an unmodified Puma a worker of Ratoon, whichever program starts it (`puma`, `rails server`, `rackup`):
# `RUBYOPT=-rratoon/adapter` in `worker.environment`. It is the Puma plugin (ratoon/puma.rb) without a line in the configuration.
#
# Nothing is done in a process that loads no Puma.

module Ratoon
  # Prepended to Puma::Configuration.
  module Adapter
    def load(*)
      super.tap do
        configure { |user_config| user_config.plugin(:ratoon) } unless @ratoon_plugin
        @ratoon_plugin = true
      end
    end

    # Puma is not loaded yet: the end of its class's definition is waited for.
    def self.install
      TracePoint.new(:end) do |trace|
        next unless trace.self.is_a?(Class) && trace.self.name == 'Puma::Configuration'

        trace.disable
        require_relative '../puma/plugin/ratoon'
        ::Puma::Configuration.prepend(Adapter)
      end.enable
    end
  end
end

Ratoon::Adapter.install if ENV['LISTEN_FDS'].to_i.positive?
