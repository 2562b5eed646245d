# frozen_string_literal: true

require 'puma/plugin'
require_relative '../../ratoon/puma'

# `plugin :ratoon` in puma.rb.
Puma::Plugin.create do
  def config(config)
    Ratoon::Puma.configure(config)
  end

  def start(launcher)
    Ratoon::Puma.start(launcher)
  end
end
