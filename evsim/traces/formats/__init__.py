"""traces.formats"""
