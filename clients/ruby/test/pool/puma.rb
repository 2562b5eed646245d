# frozen_string_literal: true

threads 1, 4
plugin :ratoon
