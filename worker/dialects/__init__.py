"""The wire formats: pure, incremental codecs, one package a dialect."""
