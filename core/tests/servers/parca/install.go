// In place of the file of Prometheus that lists two dozen clouds and schedulers where Parca could find targets, with the client
// libraries of each: what the tests let it scrape is told in its configuration, which it knows without any of them.
package install
