"""Backward rules for every framework that can lay a function out as a program; no framework is imported here."""

from whence.backends.program_rules.ruled import ProgramRuled as ProgramRuled
