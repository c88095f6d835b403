"""OpenAI's APIs: a module for each, and the errors that all of them share."""
