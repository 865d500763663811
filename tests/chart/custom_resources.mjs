// Reads a list of custom resources as JSON from stdin, and ends with 1 at the first that its schema does not allow.
import { readFileSync } from "node:fs";
import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor";

const MODELS = { HTTPRoute, ServiceMonitor };
for (const object of JSON.parse(readFileSync(0, "utf8"))) new MODELS[object.kind](object).validate();
