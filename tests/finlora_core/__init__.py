"""Tests of the domain: pure rules, files and stores."""
