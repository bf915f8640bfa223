"""How a server is watched: metrics for Prometheus, traces for OpenTelemetry."""

if __name__ != "trialogue.telemetry":
    # Two copies of one module are two of every class: fail here rather than in an isinstance().
    raise ImportError(f"import this as 'trialogue.telemetry', not as {__name__!r}")
